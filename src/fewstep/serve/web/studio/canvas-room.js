/** Draw, and the picture follows: image to image, inpainting, a wider frame, lines for a ControlNet, a camera. */

import { createBoard } from "./board.js";
import { $, button, el, inSteps, later, time } from "./dom.js";
import { openFeed } from "./feed.js";
import { createFollow } from "./follow.js";
import { createPrompt } from "./prompt.js";
import { downloadCanvas, fileName, pngOf } from "./save.js";
import { segments } from "./segments.js";
import { nearestAspect, wireOf } from "./settings.js";
import { tint } from "./stage.js";

const COLOURS = ["#dc3232", "#f58c28", "#fad73c", "#3caa50", "#325ad2", "#8c46b4", "#faa0be", "#ffffff", "#969696", "#141414"];
const NAMES = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "gray", "black"];
const GIVE_UP = 4000; // milliseconds without a picture after which the next is asked for
const EDGES = [["Left", 1, 0, 0, 0], ["Up", 0, 1, 0, 0], ["Right", 0, 0, 1, 0], ["Down", 0, 0, 0, 1]];

/** @param {HTMLElement} room */
export function build(room, studio) {
  const { store, live, director, notices, model, vocabulary, students } = studio;
  const several = students.filter((steps) => steps > 1 || model.anywhere.includes(steps));
  const chosen = { steps: several.includes(store.get().steps) ? store.get().steps : several.at(-1) ?? students.at(-1), strength: 0.5 };
  const anywhere = () => model.anywhere.includes(chosen.steps); // else only the levels of its steps can be begun from
  const level = () => Math.max(1, Math.round(chosen.strength * chosen.steps));
  room.classList.add("canvas");
  room.innerHTML = `
    <div class="ask"><textarea class="prompt" id="canvas-prompt" rows="1" maxlength="4000" spellcheck="false" autocomplete="off" autocapitalize="off" role="combobox" aria-expanded="false"
      aria-autocomplete="list" aria-controls="canvas-suggestions" aria-label="Prompt" placeholder="What should it become?"></textarea>
      <p class="hint" id="canvas-hint" role="status"></p><div class="suggestions" id="canvas-suggestions" role="listbox" aria-label="Suggestions"></div></div>
    <section class="half" aria-label="Your canvas">
      <div class="frame board" id="board"></div>
      <div class="caption"><div class="swatches" id="swatches" role="group" aria-label="Colour"></div></div>
      <div class="row" id="canvas-tools"></div>
      <div class="row" id="canvas-sources"></div>
    </section>
    <section class="half" aria-label="What it becomes">
      <div class="frame" id="result-frame"><canvas class="picture" id="result" width="256" height="256" role="img" aria-label="No picture yet"></canvas></div>
      <div class="caption"><output class="made" id="result-made"></output><div class="actions" id="result-actions"></div></div>
      <div class="row" id="canvas-dials"></div>
      <p class="hint" id="canvas-said"></p>
    </section>`;
  const result = $("result");
  let feed = null;
  let asked = 0; // what was asked for last: people leave or change their minds while the browser asks whether it may look
  let busy = false;
  let again = false;
  let here = false;
  let maskSent = false;

  const board = createBoard($("board"), () => {
    maskSent = false;
    clear.disabled = !board.masked;
    push();
  });

  /** Send what is on the board and ask for what it becomes; one at a time, always the newest. */
  async function push() {
    if (!here || !store.get().prompt.trim()) return;
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    again = false;
    try {
      const [width, height] = board.size;
      const { aspect, ...wanted } = wireOf(store.get(), chosen.steps);
      const type = feed ? "image/jpeg" : "image/png";
      if (follow.hint) return await shown(live.ask({ ...wanted, width, height, ...follow.wire(board.paint, type) }));
      const masked = board.masked;
      const mask = masked && !maskSent ? board.whiteMask() : null; // of the same moment as the image: strokes go on meanwhile
      maskSent = masked;
      const blob = await new Promise((resolve) => board.paint.toBlob(resolve, type, 0.9));
      await live.upload("image", blob);
      if (mask) await live.upload("mask", await pngOf(mask));
      const strength = anywhere() ? chosen.strength : level() / chosen.steps;
      await shown(live.ask({ ...wanted, width, height, image: true, strength, ...(masked && { mask: true }) }));
    } finally {
      busy = false;
      if (again) push();
    }
  }
  const shown = (generation) => Promise.race([director.arrival(generation), new Promise((resolve) => setTimeout(resolve, GIVE_UP))]);

  // Tools.
  const kinds = segments("Tool", [["brush", "Brush"], ["mask", "Repaint"], ["unmask", "Keep"]], "brush", (kind) => {
    board.tool.kind = kind;
    $("canvas-said").textContent = kind === "brush" ? "" : "Paint over what should be made anew. The rest stays exactly as it is.";
  });
  const size = el("input", { class: "range brush-size", type: "range", min: "4", max: "96", value: String(board.tool.size), ariaLabel: "Brush size", title: "Brush size" });
  size.oninput = () => (board.tool.size = Number(size.value));
  const undo = button("undo", "", { label: "Undo", onclick: () => board.undo() });
  const clear = button("mask", "", { label: "Forget what is to be repainted", disabled: true, onclick: () => board.clearMask() });
  $("canvas-tools").append(kinds.element, size, el("div", { class: "actions" }, undo, clear));
  const swatches = COLOURS.map((colour, i) => el("button", { type: "button", style: { "--swatch": colour }, title: NAMES[i], aria: { label: NAMES[i], pressed: String(!i) } }));
  const dip = (colour, index) => {
    board.tool.colour = colour;
    board.tool.kind = "brush";
    kinds.set("brush");
    swatches.forEach((one, i) => one.setAttribute("aria-pressed", String(i === index)));
  };
  swatches.forEach((one, i) => {
    one.onclick = () => dip(COLOURS[i], i);
    one.ondblclick = () => board.fill(COLOURS[i]);
  });
  const any = el("input", { type: "color", value: "#dc3232", ariaLabel: "Any colour", title: "Any colour", oninput: () => dip(any.value, -1) });
  const fill = button("fill", "", { label: "Fill with this colour", onclick: () => board.fill(board.tool.colour) });
  $("swatches").append(...swatches, any, fill);

  // Where the picture comes from, and how far it goes.
  const opener = el("input", { type: "file", accept: "image/*", hidden: true, onchange: () => opener.files[0] && take(opener.files[0]) });
  const watch = (kind) => button(kind, kind === "camera" ? "Camera" : "Screen", { onclick: (event) => look(kind, event.currentTarget) });
  const feeds = [watch("camera"), watch("screen")];
  $("canvas-sources").append(button("open", "Open", { label: "Open a picture", onclick: () => opener.click() }), opener, ...feeds);
  const unit = Math.max(model.multiple_of, Math.round(model.sizes["1:1"][0] / 4 / model.multiple_of) * model.multiple_of);
  const most = 2 * model.sizes["1:1"][0];
  for (const [name, ...sides] of EDGES) {
    const label = `Widen the frame: ${name.toLowerCase()}`;
    const edge = el("button", { type: "button", class: `edge ${name.toLowerCase()}`, title: label, aria: { label } }, "+");
    edge.onclick = () => {
      const [left, top, right, bottom] = sides.map((side) => side * unit);
      const [width, height] = board.size;
      if (width + left + right > most || height + top + bottom > most) notices.say(`The frame can have at most ${most} pixels a side.`);
      else board.extend(left, top, right, bottom);
    };
    $("board").append(edge);
  }

  const levels = el("div", { class: "levels" });
  const showLevels = () => {
    const choose = (strength) => {
      chosen.strength = strength;
      push();
    };
    const shares = Array.from({ length: chosen.steps }, (_, i) => [String(i + 1), `${i + 1}/${chosen.steps}`]);
    const slider = el("input", { class: "range strength", type: "range", min: "0.05", max: "1", step: "0.05", value: String(chosen.strength), ariaLabel: "How much changes" });
    slider.oninput = () => choose(Number(slider.value));
    const dial = anywhere() ? slider : segments("How much changes", shares, String(level()), (run) => choose(Number(run) / chosen.steps)).element;
    levels.replaceChildren(el("span", {}, "How much changes"), dial);
    levels.title = "How much noise your picture is begun from: little keeps it, all of it leaves only its mask";
  };
  const walk = (count) => {
    chosen.steps = count;
    showLevels();
  };
  const steps = el("div", { class: "levels" });
  const showSteps = () => {
    const counts = follow.hint ? students : several; // one step leaves nothing of a picture, but follows lines
    if (counts.length && !counts.includes(chosen.steps)) walk(counts[0]);
    const group = segments("Steps", counts.map((count) => [String(count), String(count)]), String(chosen.steps), (count) => {
      walk(Number(count));
      push();
    });
    steps.replaceChildren(el("span", {}, "Steps"), group.element);
  };
  const follow = createFollow(model.control, () => {
    const following = Boolean(follow.hint);
    levels.hidden = kinds.element.hidden = clear.hidden = following;
    $("board").classList.toggle("following", following);
    board.tool.kind = "brush";
    kinds.set("brush");
    $("canvas-said").textContent = follow.said;
    showSteps();
    push();
  });
  $("canvas-dials").append(...follow.elements, levels, steps);
  showLevels();
  showSteps();

  $("result-actions").append(
    button("use", "", { label: "Go on from this picture", onclick: () => (board.put(result), board.clearMask()) }),
    button("download", "", { label: "Download as PNG", onclick: () => downloadCanvas(result, `${fileName(store.get().prompt, "canvas")}.png`) }),
  );
  createPrompt({ area: $("canvas-prompt"), list: $("canvas-suggestions"), hint: $("canvas-hint") }, store, vocabulary, push);
  store.subscribe((_, changed) => here && !changed.has("locked") && push());

  director.onframe(({ bitmap, header, wanted, latency }) => {
    if (!here || !(wanted.image || wanted.control)) return;
    if (result.width !== header.width || result.height !== header.height) Object.assign(result, { width: header.width, height: header.height });
    $("result-frame").style.setProperty("--ratio", header.width / header.height);
    result.getContext("2d").drawImage(bitmap, 0, 0);
    Object.assign(result.dataset, { generation: header.generation, prompt: wanted.prompt, final: header.final, masked: Boolean(wanted.mask), control: wanted.control?.[0].hint ?? "" });
    result.setAttribute("aria-label", `${wanted.prompt}, from your canvas`);
    if (header.decoder === studio.quickDecoder) $("result-made").replaceChildren(el("b", {}, time(latency)), wanted.control ? `  ·  ${inSteps(wanted.steps)}` : anywhere() ? `  ·  ${Math.round(chosen.strength * 100)} % anew` : `  ·  ${level()} of ${chosen.steps} steps`);
    tint(result);
  });

  async function look(kind, pressed) {
    const stopping = pressed.getAttribute("aria-pressed") === "true";
    hush();
    if (stopping) return;
    const mine = asked;
    try {
      const opened = await openFeed(kind, hush);
      if (mine !== asked) return opened.stop();
      feed = opened;
      pressed.setAttribute("aria-pressed", "true");
      while (feed && here) {
        board.put(feed.video, ...board.size, { quietly: true });
        await push();
        await new Promise((resolve) => setTimeout(resolve, 30));
      }
    } catch (problem) {
      notices.problem(problem);
    }
  }
  function hush() {
    asked += 1;
    feed?.stop();
    feed = null;
    for (const one of feeds) one.setAttribute("aria-pressed", "false");
  }
  async function take(file) {
    try {
      const bitmap = await createImageBitmap(file);
      board.put(bitmap, ...model.sizes[nearestAspect(bitmap.width / bitmap.height, model.sizes)]);
      board.clearMask();
    } catch {
      notices.say("This file is no picture that the browser can open.");
    }
  }
  const soon = later(push, 50);

  return {
    take,
    enter() {
      here = true;
      director.paused = true;
      if (!board.size[0] || board.paint.dataset.fresh !== "no") {
        board.put(director.canvas, director.canvas.width, director.canvas.height);
        board.paint.dataset.fresh = "no";
      }
      soon();
    },
    leave() {
      here = false;
      hush();
      director.paused = false;
      director.ask();
    },
  };
}
