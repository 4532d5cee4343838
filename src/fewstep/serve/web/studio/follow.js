/** What the canvas is to the picture: what it begins from, or lines that its composition follows, where the server has a ControlNet. */

import { el } from "./dom.js";
import { segments } from "./segments.js";

const OFFERED = { scribble: "Scribble", lineart: "Line art", canny: "Edges" };
const SAID = {
  scribble: "Lines of any colour are followed, on paper of one colour: fill it, then draw.",
  lineart: "Whatever is darker than what is around it is followed.",
  canny: "Whatever has an edge is followed.",
};

/** @param {string[]} hints of /v1/models: none where nothing could follow @param {() => void} changed */
export function createFollow(hints, changed) {
  const offered = Object.entries(OFFERED).filter(([hint]) => hints.includes(hint));
  const weight = el("input", { class: "range follow-weight", type: "range", min: "0.05", max: "2", step: "0.05", value: "1", ariaLabel: "How closely it is followed" });
  const closely = el("div", { class: "levels", hidden: true }, el("span", {}, "How closely"), weight);
  weight.oninput = () => changed();
  const kinds = segments("The canvas is", [["", "Picture"], ...offered], "", (hint) => {
    follow.hint = hint;
    closely.hidden = !hint;
    changed();
  });
  const follow = {
    /** What is made of the canvas before a ControlNet reads it; empty where pictures begin from it. */
    hint: "",
    elements: offered.length ? [el("div", { class: "levels" }, el("span", {}, "The canvas is"), kinds.element), closely] : [],
    get said() {
      return SAID[follow.hint] ?? "";
    },
    /** As the server takes it. @param {HTMLCanvasElement} canvas @param {string} type of the image that is sent */
    wire: (canvas, type) => ({ control: [{ image: canvas.toDataURL(type, 0.9), hint: follow.hint, weight: Number(weight.value) }] }),
  };
  return follow;
}
