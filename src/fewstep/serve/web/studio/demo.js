/** The first sight of the studio: an example types itself, then goes through the steps once. Any key, touch or change ends it. */

import { pause, still } from "./dom.js";
import { ideas } from "./words.js";

const EXAMPLE = "a fox on a purple background";
const SEED = 7;
const KEY = 70; // milliseconds between two letters
const LOOK = 650; // milliseconds that each step count is shown for
const OURS = ["demo", "demo steps"];
const ENDS = ["keydown", "pointerdown"];

/** @param {HTMLTextAreaElement} area */
export async function demo(area, store, students, vocabulary) {
  const knows = vocabulary.subjects.includes("fox") && vocabulary.colours.includes("purple");
  const text = knows ? EXAMPLE : ideas(vocabulary)[0]?.prompt ?? EXAMPLE;
  const final = store.get().steps;
  let over = false;

  /** Leave the whole example there, selected if the person is about to type over it. */
  function finish() {
    over = true;
    for (const kind of ENDS) removeEventListener(kind, end, { capture: true });
    store.set({ prompt: text, steps: final }, "demo end");
    if (document.activeElement === area) area.select();
  }
  function end(event) {
    if (!over && !event.metaKey && !event.ctrlKey && !event.altKey) finish();
  }
  for (const kind of ENDS) addEventListener(kind, end, { capture: true });
  store.subscribe((_, changed, why) => {
    if (over || OURS.includes(why)) return;
    over = true;
    for (const kind of ENDS) removeEventListener(kind, end, { capture: true });
    if (!changed.has("steps")) store.set({ steps: final }, "demo end");
  });

  store.set({ seed: SEED, steps: final }, "demo");
  for (let length = still() ? text.length : 2; length <= text.length && !over; length += 1) {
    store.set({ prompt: text.slice(0, length) }, "demo");
    await pause(KEY);
  }
  for (const steps of still() ? [] : students) {
    if (over) return;
    store.set({ steps }, "demo steps");
    await pause(LOOK);
  }
  if (!over) finish();
}
