/** A few choices side by side, one of which is taken. */

import { el } from "./dom.js";

let count = 0;

/** @param {string} label @param {[string, string][]} choices (value, text) @param {string} value @param {(value: string) => void} onchange */
export function segments(label, choices, value, onchange) {
  const name = `segments-${(count += 1)}`;
  const place = el("div", { class: "segments", aria: { role: "radiogroup", label } });
  for (const [one, text] of choices) {
    const input = el("input", { type: "radio", name, value: one, checked: one === value });
    input.onchange = () => onchange(one);
    place.append(el("label", {}, input, text));
  }
  return {
    element: place,
    set(wish) {
      for (const input of place.querySelectorAll("input")) input.checked = input.value === wish;
    },
  };
}
