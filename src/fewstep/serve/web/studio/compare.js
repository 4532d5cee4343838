/** Two settings side by side, each with its own steps and clock: the same words, seed and shape, unless the left ones are kept as they were. */

import { el, inSteps, later, time } from "./dom.js";
import { wireOf } from "./settings.js";

const CALM = 200; // milliseconds without a change until both are made anew
const TEACHER = 32; // steps that the undistilled model is asked for
const STAGES = ["text", "encode", "denoise", "decode"];

/** @param {HTMLElement} place */
export function createCompare(place, store, studio) {
  const { students, teacher } = studio;
  const choices = [...students.map((steps) => [steps, inSteps(steps)]), ...(teacher ? [[TEACHER, `Teacher, ${inSteps(TEACHER)}`]] : [])];
  const sides = [students[0] ?? TEACHER, teacher ? TEACHER : students.at(-1)].map(side);
  const ratio = el("p", { class: "ratio", aria: { live: "polite" } });
  const hold = el("button", { type: "button", class: "button hold", textContent: "Keep the left as it is", onclick: () => keep(kept ? null : store.get()) });
  let kept = null; // settings of the left side, where they do not follow
  place.append(...sides.map(({ element }) => element), ratio, hold);
  keep(null);
  let on = false;
  let running = new AbortController();

  function side(steps, i) {
    const options = choices.map(([value, text]) => el("option", { value, textContent: text, selected: value === steps }));
    const select = el("select", { aria: { label: i ? "Right" : "Left" } }, ...options);
    const canvas = el("canvas", { width: 1, height: 1, aria: { role: "img", label: "" } });
    const clock = el("p", { class: "time" }, "–");
    const element = el("div", { class: "side" }, canvas, clock, select);
    select.onchange = make;
    return { element, canvas, clock, select };
  }

  /** Have the left side stay as `settings` are, or follow again. */
  function keep(settings) {
    const followed = !kept;
    kept = settings;
    hold.setAttribute("aria-pressed", String(Boolean(kept)));
    hold.title = kept ? `“${kept.prompt.trim()}”, seed ${kept.seed}` : "Then change anything, or take a picture from the history, and see both";
    if (!followed) make();
  }

  /** The clock runs while the server works, then shows what the server measured. */
  function start({ element, clock }) {
    const began = performance.now();
    let ticking = requestAnimationFrame(function tick() {
      show(clock, performance.now() - began);
      ticking = requestAnimationFrame(tick);
    });
    element.classList.add("working");
    return (took, replaced) => {
      cancelAnimationFrame(ticking);
      if (!replaced) element.classList.remove("working");
      if (took != null) show(clock, took);
      else if (!replaced) clock.textContent = "–"; // what it ran to is no measurement
    };
  }

  async function one(which, signal, decoder, clocked) {
    const steps = Number(which.select.value);
    const stop = clocked ? start(which) : () => {};
    try {
      const settings = (which === sides[0] && kept) || store.get();
      const made = await studio.generate({ ...wireOf(settings, steps), decoder, format: "jpeg" }, { signal, away: true });
      const took = STAGES.reduce((sum, stage) => sum + (made.timings[stage] ?? 0), 0);
      stop(took);
      const bitmap = await createImageBitmap(made.image);
      signal.throwIfAborted(); // another is shown there by now
      Object.assign(which.canvas, { width: bitmap.width, height: bitmap.height });
      which.canvas.getContext("2d").drawImage(bitmap, 0, 0);
      which.canvas.setAttribute("aria-label", `${settings.prompt.trim()}, ${inSteps(steps)}, ${time(took)}`);
      which.canvas.style.setProperty("--ratio", bitmap.width / bitmap.height);
      Object.assign(which.canvas.dataset, { steps, prompt: settings.prompt.trim() });
      bitmap.close();
      return took;
    } catch (problem) {
      stop(null, signal.aborted && on); // where another has begun, its clock goes on
      throw problem;
    }
  }

  /** First both with the decoder of live pictures, one after the other so that neither slows the other's clock; then both in full. */
  async function make() {
    running.abort();
    const { signal } = (running = new AbortController());
    if (!on || !store.get().prompt.trim()) return;
    ratio.textContent = "";
    try {
      const took = [];
      for (const which of sides) took.push(await one(which, signal, studio.quickDecoder, true));
      say(took);
      if (studio.quickDecoder !== "full") for (const which of sides) await one(which, signal, "full", false);
    } catch (problem) {
      if (!signal.aborted) studio.notices.problem(problem);
    }
  }

  function say([left, right]) {
    const times = Math.max(left, right) / Math.max(1, Math.min(left, right));
    ratio.replaceChildren(...(times < 1.15 ? ["Equally fast."] : [`The ${left < right ? "left" : "right"} one is `, el("b", {}, `${times.toFixed(times < 10 ? 1 : 0)}×`), ` as fast.${alike() ? " Same words, same seed." : ""}`]));
  }

  const alike = () => !kept || (kept.prompt.trim() === store.get().prompt.trim() && kept.seed === store.get().seed);

  const makeSoon = later(make, CALM);
  store.subscribe((_, changed) => on && !(changed.size === 1 && (changed.has("locked") || changed.has("steps"))) && makeSoon());
  return {
    toggle(wish) {
      on = wish;
      place.hidden = !on;
      if (on) make();
      else {
        running.abort();
        keep(null);
      }
    },
    get on() {
      return on;
    },
  };
}

function show(clock, milliseconds) {
  const [number, unit] = time(milliseconds).split(" ");
  clock.replaceChildren(number, el("small", {}, unit));
}
