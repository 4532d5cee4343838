/** Errors in words, and what else is to be said once. */

import { Refusal } from "../fewstep.js";
import { button, el } from "./dom.js";

const SHOWN = 6000; // milliseconds

const SAID = {
  queue_full: "The server has more to do than it can take. Trying again.",
  sessions_full: "All places for live pictures are taken. Trying again.",
  rate_limited: "That was faster than this server allows. Trying again.",
  shutting_down: "The server is shutting down.",
  not_ready: "The model is being loaded.",
  wrong_key: "This server wants a key.",
  wrong_origin: "This page may not use that server.",
};

/** What a problem means, as a sentence for people. */
export function inWords(problem) {
  if (SAID[problem.code]) return SAID[problem.code];
  if (problem.status === 429) return SAID.rate_limited;
  if (problem.status === 0 && problem instanceof Refusal) return "The server does not answer. Is fewstep serve running?";
  const text = String(problem.message ?? problem);
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

/** "one, two and three". @param {string[]} parts */
export const sentence = (parts) => [parts.slice(0, -1).join(", "), parts.at(-1)].filter(Boolean).join(" and ");

/** @param {Element} place */
export function createNotices(place) {
  let shown = null;
  const say = (text, { lasting = false } = {}) => {
    if (shown?.text === text) return shown.remove;
    shown?.remove();
    const close = button("close", "", { label: "Close" });
    const notice = el("div", { class: "notice" }, el("p", {}, text), close);
    const remove = () => {
      clearTimeout(timer);
      notice.remove();
      if (shown?.text === text) shown = null;
    };
    const timer = lasting ? 0 : setTimeout(remove, SHOWN);
    close.onclick = remove;
    shown = { text, remove };
    place.append(notice);
    return remove;
  };
  /** `say(text)` returns what takes it away again. */
  return { say, problem: (problem) => problem.name !== "AbortError" && say(inWords(problem)) };
}
