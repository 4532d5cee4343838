/** From seed to seed without a jump: each picture is asked for when the one before it is there. */

import { randomSeed } from "./settings.js";

const SLOWEST = 12; // seconds from one seed to the next
const FASTEST = 1.5;
const LEAST = 1000 / 30; // milliseconds between two pictures

/** @param {{panel: HTMLElement, pace: HTMLInputElement, stop: HTMLElement, ring: HTMLElement}} parts */
export function createWalk({ panel, pace, stop, ring }, store, director, changed) {
  let on = false;
  let walks = 0; // that were begun: one that was stopped may still wait for its picture when the next begins

  async function go() {
    const walk = (walks += 1);
    let { seed, variations } = store.get();
    if (!variations.length) variations = [[randomSeed(), 0]];
    let then = performance.now();
    while (on && walk === walks) {
      const now = performance.now();
      const seconds = SLOWEST * (FASTEST / SLOWEST) ** Number(pace.value);
      const [goal, before] = variations.at(-1);
      const thousandths = Math.round(1000 * (before + Math.min(0.2, (now - then) / 1000 / seconds)));
      then = now;
      if (thousandths >= 1000) [seed, variations] = [goal, [[randomSeed(), (thousandths - 1000) / 1000]]]; // all of the way to a seed leaves nothing of those before it
      else variations = [...variations.slice(0, -1), [goal, thousandths / 1000]];
      store.set({ seed, variations }, "walk");
      ring.style.setProperty("--done", variations.at(-1)[1]);
      const shown = director.arrival(director.generation);
      await Promise.race([shown, new Promise((resolve) => setTimeout(resolve, 3000))]);
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, now + LEAST - performance.now())));
    }
    if (walk === walks) director.ask();
  }

  function toggle(wish) {
    if (wish === on) return;
    on = wish;
    panel.hidden = ring.hidden = !on;
    if (on) go();
    changed();
  }
  stop.onclick = () => toggle(false);
  store.subscribe((_, names, why) => on && ["dice", "history", "restore", "suggestion"].includes(why) && toggle(false));
  return {
    toggle,
    get on() {
      return on;
    },
  };
}
