/** The sheet that asks for the server's key, where it wants one. One that opened the server is kept until the tab is closed. */

import { isKey } from "../fewstep.js";
import { el } from "./dom.js";

const KEPT = "fewstep.key";

export function keptKey() {
  try {
    const kept = sessionStorage.getItem(KEPT);
    return kept && isKey(kept) ? kept : null;
  } catch {
    return null;
  }
}

export function keepKey(key) {
  try {
    sessionStorage.setItem(KEPT, key);
  } catch {
    // It lasts until the page is left.
  }
}

/** Ask for a key until one is given. @param {HTMLDialogElement} sheet @param {boolean} wrong whether one was given that does not open @returns {Promise<string>} */
export async function askKey(sheet, wrong) {
  const input = el("input", { type: "password", class: "text", required: true, autocomplete: "current-password", ariaLabel: "Key" });
  input.oninput = () => input.setCustomValidity(isKey(input.value.trim()) ? "" : "A key is of letters, digits and signs as on an English keyboard.");
  const form = el("form", { method: "dialog" }, input, el("button", { class: "button main" }, "Go on"));
  const said = `${wrong ? "That was not the key. " : ""}It is what was given to fewstep serve as --api-key.`;
  sheet.replaceChildren(el("h2", { id: "key-title" }, "This server wants a key"), el("p", {}, said), form);
  let given = "";
  form.onsubmit = () => void (given = input.value.trim());
  while (!given) {
    sheet.showModal();
    await new Promise((resolve) => (sheet.onclose = resolve)); // also by Escape, which a page cannot forbid twice
  }
  return given;
}
