/**
 * fewstep.js: pictures that follow whoever types. No dependency; see docs/serving.md for what goes over the wire.
 *
 *     const live = connect({ onframe: (frame) => context.drawImage(frame.bitmap, 0, 0) });
 *     input.oninput = () => live.ask({ prompt: input.value, seed: 7, steps: 1 });
 */

const BACKOFF = [250, 500, 1000, 2000, 4000, 8000]; // milliseconds until the next try
const INTERVAL = 40; // milliseconds between two messages
const REMEMBERED = 64; // messages whose frames may still come
const SILENCE = 8000; // milliseconds without a word until the server is asked whether it is there, and as many for its answer
const LARGEST = 8 << 20; // bytes of a message

/** @typedef {{prompt: string, seed?: number, steps?: number, width?: number, height?: number, aspect?: string, [more: string]: any}} Wanted */
/**
 * @typedef {object} Frame
 * @property {ImageBitmap} bitmap  yours: close it when it was drawn
 * @property {Blob} image          the same, as it came
 * @property {object} header       generation, step, steps, decoder, final, preview, seed, width, height, timings_ms, shown, replaced
 * @property {Wanted} wanted       what it answers
 * @property {number} latency      milliseconds from asking to having it
 */

/** An answer of the server that is no picture. `status` is 0 where there was no answer. */
export class Refusal extends Error {
  constructor(message, status = 0, code = "", retryAfter = 0) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

/** Whether it can be a server's key, which are of plain ASCII: a header carries no other. */
export const isKey = (text) => /^[ -~]+$/.test(text);

/** Header and picture of a binary frame. @param {ArrayBuffer} buffer */
export function parseFrame(buffer) {
  const length = new DataView(buffer).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const bytes = new Uint8Array(buffer, 4 + length);
  return { header, image: new Blob([bytes], { type: typeOf(bytes) }) };
}

/** A binary message that brings a picture: later messages may say `image: true` or `mask: true`. @param {"image"|"mask"} kind @param {Uint8Array} bytes */
export function packUpload(kind, bytes, name = "canvas") {
  const header = new TextEncoder().encode(JSON.stringify({ [kind]: name }));
  const message = new Uint8Array(4 + header.length + bytes.length);
  new DataView(message.buffer).setUint32(0, header.length);
  message.set(header, 4);
  message.set(bytes, 4 + header.length);
  return message;
}

/** Open a live session; it opens itself again whenever it is lost. @returns {Live} */
export function connect(options = {}) {
  const live = new Live(options);
  live.open();
  return live;
}

/** A live session. `onframe(frame)` gets frames in order, never an old one after a newer; `onstate({state, reason, retryIn})`; `onerror(refusal)`. */
export class Live {
  constructor({ base = location.origin, key = null, interval = INTERVAL, onframe = () => {}, onstate = () => {}, onerror = () => {} } = {}) {
    Object.assign(this, { base, key, interval, onframe, onstate, onerror });
    this.generation = 0;
    this.state = "closed"; // connecting, live, waiting or closed
    this.asked = new Map(); // generation → {wanted, at}
    this.uploads = new Map(); // kind → bytes, to be sent again after a loss
    this.wanted = null;
    this.out = null; // the name under which others see the pictures
    this.shared = false;
    this.tries = this.turn = 0;
    this.sentAt = -Infinity;
    this.decoding = false;
    this.next = null; // the newest frame that waits to be decoded
    this.socket = this.sending = this.retrying = this.silent = null;
    this.wake = () => this.state === "waiting" && document.visibilityState !== "hidden" && this.open();
  }

  /** Want this from now on, and nothing that was asked before. Returns its generation. @param {Wanted} wanted */
  ask(wanted) {
    this.wanted = wanted;
    this.generation += 1;
    const wait = this.sentAt + this.interval - performance.now();
    if (wait <= 0) this.send();
    else this.sending ??= setTimeout(() => this.send(), wait);
    return this.generation;
  }

  /** Hand over a picture that the next messages refer to; one that no message holds is an error. @param {"image"|"mask"} kind @param {Blob} blob */
  async upload(kind, blob) {
    if (blob.size > LARGEST - 1024) return this.onerror(new Refusal(`This picture has ${(blob.size / 1e6).toFixed(1)} MB: give one of at most 8.`, 413, "too_large"));
    const bytes = new Uint8Array(await blob.arrayBuffer());
    this.uploads.set(kind, bytes);
    if (this.state === "live") this.socket.send(packUpload(kind, bytes));
  }

  /** Let others look: a bare page with the pictures, for OBS and the like. Returns its address. */
  async share() {
    if (!this.out) {
      const old = this.socket;
      this.shared = true;
      await this.open();
      old?.close();
      if (!this.out) throw new Refusal("the server does not answer");
    }
    return `${this.base}/out/${this.out}`;
  }

  /** Leave for good. */
  close() {
    this.set("closed");
    for (const waiting of [this.sending, this.retrying, this.silent]) clearTimeout(waiting);
    removeEventListener("online", this.wake);
    document.removeEventListener("visibilitychange", this.wake);
    this.socket?.close();
  }

  async open() {
    clearTimeout(this.retrying);
    addEventListener("online", this.wake);
    document.addEventListener("visibilitychange", this.wake);
    this.set("connecting");
    this.socket = null;
    const turn = (this.turn += 1);
    const over = () => turn !== this.turn || this.state !== "connecting"; // it was closed or opened anew meanwhile
    let path = "/v1/live";
    try {
      if (this.key || this.shared) ({ live: path, out: this.out } = await openSession(this.base, this.key, this.out));
    } catch (problem) {
      if (!over()) this.lost(problem);
      return;
    }
    if (over()) return;
    const socket = (this.socket = new WebSocket(this.base.replace(/^http/, "ws") + path));
    let opened = false;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      opened = true;
      this.set("live");
      for (const [kind, bytes] of this.uploads) socket.send(packUpload(kind, bytes));
      if (this.wanted) this.ask(this.wanted);
    };
    socket.onmessage = ({ data }) => {
      clearTimeout(this.silent);
      if (typeof data === "string") this.refused(JSON.parse(data));
      else this.arrived(data);
    };
    socket.onclose = async () => {
      const ours = () => this.socket === socket && this.state !== "closed";
      if (!ours()) return;
      const reason = opened ? null : await whyNot(this.base, this.key);
      if (ours()) this.lost(reason);
    };
  }

  send() {
    clearTimeout(this.sending);
    this.sending = null;
    if (this.state !== "live" || !this.wanted) return;
    this.sentAt = performance.now();
    this.asked.set(this.generation, { wanted: this.wanted, at: this.sentAt });
    for (const old of this.asked.keys()) if (old <= this.generation - REMEMBERED) this.asked.delete(old);
    this.socket.send(JSON.stringify({ ...this.wanted, generation: this.generation }));
    clearTimeout(this.silent);
    this.silent = setTimeout(() => this.probe(), SILENCE);
  }

  /** A server that is stopped, or behind a cable that is pulled, closes nothing. One that is only slow answers this. */
  async probe() {
    const { socket } = this;
    const there = await fetch(`${this.base}/healthz`, { mode: "no-cors", cache: "no-store", signal: AbortSignal.timeout(SILENCE) }).then(() => true, () => false);
    if (there || this.socket !== socket || this.state !== "live") return;
    this.socket = null;
    socket.close();
    this.lost(new Refusal("the server does not answer"));
  }

  arrived(buffer) {
    this.tries = 0; // not when it opens: a picture that always fails would be asked for without a pause
    const { header, image } = parseFrame(buffer);
    const { wanted, at } = this.asked.get(header.generation) ?? { wanted: this.wanted, at: this.sentAt };
    this.next = { header, image, wanted, latency: performance.now() - at };
    if (!this.decoding) this.decode();
  }

  /** Decode one at a time, always the newest: what a newer frame overtakes is never shown. */
  async decode() {
    this.decoding = true;
    while (this.next) {
      const frame = this.next;
      this.next = null;
      const bitmap = await createImageBitmap(frame.image).catch(() => null);
      try {
        if (bitmap) this.onframe({ ...frame, bitmap });
      } catch (problem) {
        reportError(problem); // the next frame is shown all the same
      }
    }
    this.decoding = false;
  }

  refused({ error, generation }) {
    if (generation && generation < this.generation) return;
    this.onerror(new Refusal(error.message, 400, error.code ?? ""));
  }

  lost(reason) {
    const retryIn = reason?.retryAfter ? 1000 * reason.retryAfter : BACKOFF[Math.min(this.tries++, BACKOFF.length - 1)] * (0.8 + 0.4 * Math.random());
    this.set("waiting", reason, retryIn);
    this.retrying = setTimeout(() => this.open(), retryIn);
  }

  set(state, reason = null, retryIn = 0) {
    this.state = state;
    this.onstate({ state, reason, retryIn });
  }
}

/**
 * One finished picture. A busy server is asked again when it says, and with `away` one that does not answer too, for some two minutes;
 * `onbusy(seconds, away)` is told.
 * @param {Wanted & {format?: string, decoder?: string}} wanted
 * @returns {Promise<{image: Blob, seed: number, steps: number, timings: Object<string, number>, ms: number}>}
 */
export async function generate(wanted, { base = location.origin, key = null, signal, onbusy = () => {}, patience = 20, away = false } = {}) {
  for (let tries = 0; ; tries += 1) {
    const started = performance.now();
    try {
      const answer = await fetchJson(`${base}/v1/generate`, { key, signal, body: wanted });
      const image = await answer.blob();
      const timings = Object.fromEntries([...(answer.headers.get("Server-Timing") ?? "").matchAll(/(\w+);dur=([\d.]+)/g)].map(([, stage, ms]) => [stage, Number(ms)]));
      const number = (name) => Number(answer.headers.get(name));
      return { image, seed: number("X-Fewstep-Seed"), steps: number("X-Fewstep-Steps"), timings, ms: performance.now() - started };
    } catch (problem) {
      const gone = problem.status === 0 || problem.status === 503; // for good, or it is being started anew
      if (!(problem.status === 429 || (away && gone)) || tries >= patience) throw problem;
      const seconds = problem.retryAfter || (gone ? BACKOFF[Math.min(tries, BACKOFF.length - 1)] / 1000 : 1);
      onbusy(seconds, gone);
      await pause(1000 * seconds, signal);
    }
  }
}

/** Resolves in so many milliseconds; rejects as soon as `signal` is aborted. */
function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) reject(signal.reason);
    setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

/** The answer of GET `path` as an object: "/v1/models", "/v1/words". */
export async function get(path, { base = location.origin, key = null } = {}) {
  return (await fetchJson(base + path, { key })).json();
}

async function fetchJson(url, { key, signal, body }) {
  if (key && !isKey(key)) throw new Refusal("this is no key: keys are of plain ASCII", 401, "wrong_key");
  const headers = { ...(body && { "Content-Type": "application/json" }), ...(key && { Authorization: `Bearer ${key}` }) };
  let answer;
  try {
    answer = await fetch(url, { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Refusal("the server does not answer");
  }
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({}));
  throw new Refusal(error?.message ?? `the server answered ${answer.status}`, answer.status, error?.code ?? "", Number(answer.headers.get("Retry-After") ?? 0));
}

/** A browser gives no key with a WebSocket: this gets an address with a token. `out` goes on with a session that was lost, if it is not over. */
async function openSession(base, key, out) {
  const ask = async (body) => (await fetchJson(`${base}/v1/sessions`, { key, body })).json();
  try {
    return await ask(out ? { out } : {});
  } catch (problem) {
    if (!out || problem.status !== 400) throw problem;
    return ask({});
  }
}

/** A browser does not say why a WebSocket was refused, so ask over HTTP. */
async function whyNot(base, key) {
  try {
    await fetchJson(`${base}/readyz`, {});
    await fetchJson(`${base}/v1/models`, { key });
    return new Refusal("there are as many live sessions as this server allows", 429, "sessions_full");
  } catch (problem) {
    return problem;
  }
}

function typeOf(bytes) {
  if (bytes[0] === 0x89) return "image/png";
  return bytes[0] === 0x52 ? "image/webp" : "image/jpeg";
}
