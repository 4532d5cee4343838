/** Pictures leave the studio: downloaded, or copied. */

import { el } from "./dom.js";
import { inWords } from "./notices.js";

/** Let the browser save `blob` as `name`. */
export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** A file name from a prompt: "a-red-apple-7.png". */
export function fileName(prompt, ...rest) {
  const words = prompt.toLowerCase().normalize("NFKD").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 48);
  return [words || "picture", ...rest].join("-");
}

/** A canvas as a file. */
export const pngOf = (canvas) => (canvas.convertToBlob ? canvas.convertToBlob({ type: "image/png" }) : new Promise((resolve) => canvas.toBlob(resolve, "image/png")));

/** Copy a picture; `making` is a promise of a PNG, so that the click still counts when it is there. */
export async function copy(making, notices) {
  try {
    if (!navigator.clipboard?.write) throw new Error("This browser copies pictures only from https or this machine's own address. Download it instead.");
    await navigator.clipboard.write([new ClipboardItem({ "image/png": making })]);
    notices.say("Copied.");
  } catch (problem) {
    notices.say(problem.name === "NotAllowedError" ? "The browser did not allow copying." : inWords(problem));
  }
}
