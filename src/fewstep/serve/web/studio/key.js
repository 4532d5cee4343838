/** The sheet that asks for the server's key, where it wants one. It is kept until the tab is closed. */

import { el } from "./dom.js";

const KEPT = "fewstep.key";

export const keptKey = () => {
  try {
    return sessionStorage.getItem(KEPT);
  } catch {
    return null;
  }
};

/** Ask for a key. @param {HTMLDialogElement} sheet @returns {Promise<string>} */
export function askKey(sheet) {
  const input = el("input", { type: "password", class: "text", required: true, autocomplete: "current-password", ariaLabel: "Key" });
  const form = el("form", { method: "dialog" }, input, el("button", { class: "button main" }, "Go on"));
  sheet.replaceChildren(el("h2", { id: "key-title" }, "This server wants a key"), el("p", {}, "It is what was given to fewstep serve as --api-key."), form);
  sheet.oncancel = (event) => event.preventDefault();
  sheet.showModal();
  return new Promise((resolve) => {
    form.onsubmit = () => {
      try {
        sessionStorage.setItem(KEPT, input.value);
      } catch {
        // It lasts until the page is left.
      }
      resolve(input.value);
    };
  });
}
