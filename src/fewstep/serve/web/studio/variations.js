/** Eight neighbours around the picture as it is; click one, and the next eight lie around that. */

import { el, later } from "./dom.js";
import { MOST_VARIATIONS, randomSeed, wireOf } from "./settings.js";

const MIDDLE = 4;
const CALM = 250; // milliseconds without a change until they are made anew
const FAR = "The choices are as many as one picture can hold. Another seed begins anew.";

/** @param {{place: HTMLElement, panel: HTMLElement, spread: HTMLInputElement, reroll: HTMLElement}} parts */
export function createVariations({ place, panel, spread, reroll }, store, director, studio, closed) {
  let on = false;
  let seeds = Array.from({ length: 9 }, randomSeed);
  let running = new AbortController();
  const cells = seeds.map((_, i) => {
    const canvas = el("canvas", { width: 1, height: 1 });
    const cell = el("button", { type: "button", class: i === MIDDLE ? "middle" : "empty", aria: { label: i === MIDDLE ? "The picture as it is" : `Variation ${i < MIDDLE ? i + 1 : i}` } }, canvas);
    cell.onclick = () => pick(i);
    place.append(cell);
    return { cell, canvas, shows: null };
  });

  const draw = ({ canvas, cell }, bitmap) => {
    Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    cell.classList.remove("empty");
  };
  const around = ({ seed, variations }, i) => ({ seed, variations: [...variations, [seeds[i], Number(spread.value)]] });

  async function make() {
    makeSoon.cancel();
    running.abort();
    if (!on) return;
    const { signal } = (running = new AbortController());
    const settings = store.get();
    if (!settings.prompt.trim()) return;
    if (settings.variations.length >= MOST_VARIATIONS) {
      studio.notices.say(FAR);
      return close();
    }
    for (const one of cells) {
      if (one === cells[MIDDLE]) continue;
      one.cell.classList.add("empty");
      one.shows = null;
    }
    await Promise.all(cells.map(async (cell, i) => {
      if (i === MIDDLE) return;
      const neighbour = around(settings, i);
      try {
        const made = await studio.generate({ ...wireOf({ ...settings, ...neighbour }), decoder: studio.quickDecoder, format: "jpeg" }, { signal, away: true });
        const bitmap = await createImageBitmap(made.image);
        if (!signal.aborted) {
          draw(cell, bitmap);
          cell.shows = neighbour;
        }
        bitmap.close();
      } catch (problem) {
        if (!signal.aborted) studio.notices.problem(problem);
      }
    }));
  }
  const makeSoon = later(make, CALM);

  function pick(i) {
    if (i === MIDDLE) return close();
    const { shows, canvas } = cells[i];
    if (!shows) return;
    draw(cells[MIDDLE], canvas);
    seeds = seeds.map(randomSeed);
    store.set(shows, "variation");
    cells[MIDDLE].cell.focus({ preventScroll: true, focusVisible: false });
  }

  function toggle(wish) {
    on = wish;
    place.hidden = panel.hidden = !on;
    if (on) {
      draw(cells[MIDDLE], director.canvas);
      make();
    } else {
      makeSoon.cancel();
      running.abort();
    }
  }
  function close() {
    toggle(false);
    closed();
  }
  place.onkeydown = (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -3, ArrowDown: 3 }[event.key];
    const at = cells.findIndex(({ cell }) => cell === document.activeElement);
    if (by && cells[at + by]) {
      cells[at + by].cell.focus();
      event.stopPropagation();
    }
  };
  spread.oninput = makeSoon;
  reroll.onclick = () => {
    seeds = seeds.map(randomSeed);
    make();
  };
  director.onframe(({ bitmap }) => on && draw(cells[MIDDLE], bitmap));
  store.subscribe((_, changed, why) => on && !changed.has("locked") && (why === "variation" ? make() : makeSoon()));
  return {
    toggle,
    get on() {
      return on;
    },
  };
}
