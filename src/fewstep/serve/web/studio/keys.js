/** Every key of the studio, and the sheet that lists them. */

import { el } from "./dom.js";

const LISTED = [
  ["/", "To the prompt"], ["Esc", "Out of the prompt"], ["Enter", "Another picture of these words"], ["↓ ↑", "Go through the suggestions"],
  ["1 2 4 8", "Steps"], ["A", "Next shape"], ["D", "Another seed"], ["L", "Lock the seed"],
  ["B", "Blend two prompts"], ["V", "Variations"], ["N", "Say what to avoid"], ["W", "Walk"], ["C", "Compare"],
  ["← →", "Through the history"], ["S", "Download"], ["Y", "Copy"], ["?", "This list"],
];

/** @param {HTMLDialogElement} sheet @param {Object<string, () => void>} actions by key */
export function createKeys(sheet, actions) {
  sheet.append(el("h2", { id: "keys-title" }, "Keys"), el("dl", {}, ...LISTED.map(([key, text]) => el("div", {}, el("dt", {}, text), el("dd", {}, ...key.split(" ").flatMap((one) => [el("kbd", {}, one), " "]))))));
  sheet.onclick = ({ target }) => void (target === sheet && sheet.close());
  const all = { ...actions, "?": () => sheet.showModal() };
  addEventListener("keydown", (event) => {
    if (event.metaKey || event.ctrlKey || event.altKey || event.isComposing || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const { target } = event;
    const text = target.matches?.("textarea, select, input:not([type=range], [type=radio], [type=checkbox])");
    const own = target.matches?.("input, select, [role=slider]") && event.key.startsWith("Arrow");
    if (text || own) return;
    const action = all[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
  return { show: () => sheet.showModal() };
}
