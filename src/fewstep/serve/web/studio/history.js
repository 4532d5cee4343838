/** Pictures made before, each with everything that it was made from. They stay in this browser. */

import { el, inSteps, later, still } from "./dom.js";
import { fresh, keyOf, shapeOf } from "./settings.js";

const MOST = 60; // pictures that are kept
const SIDE = 168; // pixels of the shorter side of a thumbnail
const DWELL = 700; // milliseconds that a finished picture must be looked at before it is kept

/** @param {{strip: Element, forget: HTMLElement}} parts */
export async function createHistory({ strip, forget }, store, notices, model) {
  const drawer = await openDrawer();
  let entries = (await drawer.all()).sort((a, b) => b.at - a.at);
  let pending = null;

  function item(entry, arriving = false) {
    const image = el("img", { src: URL.createObjectURL(entry.thumb), alt: "", decoding: "async" });
    const open = el("button", { type: "button", title: entry.settings.prompt, class: arriving ? "arriving" : "", aria: { label: `${entry.settings.prompt}, ${inSteps(entry.settings.steps)}` } }, image);
    open.onclick = () => {
      const { locked, ...plain } = fresh(); // what an older studio did not keep is as it was then
      const { size } = entry.settings;
      store.set({ ...plain, ...entry.settings, ...(size && shapeOf(size, model)) }, "history");
    };
    entry.element = el("li", {}, open);
    return entry.element;
  }

  function mark() {
    const key = keyOf(store.get());
    for (const entry of entries) {
      if (entry.key === key) entry.element.firstChild.setAttribute("aria-current", "true");
      else entry.element.firstChild.removeAttribute("aria-current");
    }
    forget.hidden = !entries.length;
  }

  async function keep({ key, settings, canvas }) {
    if (key !== keyOf(store.get()) || entries.some((entry) => entry.key === key)) return mark();
    const thumb = await new Promise((resolve) => canvas.toBlob(resolve, "image/webp", 0.8));
    const entry = { key, settings, thumb, at: Date.now() };
    entries.unshift(entry);
    strip.prepend(item(entry, true));
    strip.scrollTo({ left: 0, behavior: still() ? "instant" : "smooth" });
    for (const old of entries.splice(MOST)) {
      URL.revokeObjectURL(old.element.querySelector("img").src);
      old.element.remove();
      drawer.remove(old.at);
    }
    mark();
    drawer.put({ key, settings, thumb, at: entry.at }).catch(() => notices.say("This browser does not let the studio keep its history."));
  }
  const keepSoon = later(() => pending && keep(pending), DWELL);

  strip.replaceChildren(...entries.map((entry) => item(entry)));
  forget.onclick = () => {
    for (const { at, element } of entries) {
      URL.revokeObjectURL(element.querySelector("img").src);
      drawer.remove(at);
    }
    entries = [];
    strip.replaceChildren();
    mark();
  };
  store.subscribe(mark);
  mark();
  return {
    /** Keep a finished picture if it stays for a moment. */
    offer({ bitmap }, key) {
      const { locked, ...settings } = store.get();
      pending = { key, settings, canvas: thumbnail(bitmap) };
      keepSoon();
    },
    /** Go to the next older (1) or newer (-1) one. */
    step(by) {
      const at = entries.findIndex((entry) => entry.key === keyOf(store.get()));
      entries[Math.min(entries.length - 1, Math.max(0, at + by))]?.element.firstChild.click();
    },
    get length() {
      return entries.length;
    },
  };
}

function thumbnail(bitmap) {
  const scale = Math.min(1, SIDE / Math.min(bitmap.width, bitmap.height));
  const canvas = el("canvas", { width: Math.round(bitmap.width * scale), height: Math.round(bitmap.height * scale) });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** What is kept in IndexedDB; in memory where the browser has none. */
async function openDrawer() {
  const forgetful = { all: async () => [], put: async () => {}, remove() {} };
  const database = await new Promise((resolve) => {
    const opening = globalThis.indexedDB?.open("fewstep", 1);
    if (!opening) return resolve(null);
    opening.onupgradeneeded = () => opening.result.createObjectStore("pictures", { keyPath: "at" });
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = opening.onblocked = () => resolve(null);
  }).catch(() => null);
  if (!database) return forgetful;
  const done = (request) => new Promise((resolve, reject) => Object.assign(request, { onsuccess: () => resolve(request.result), onerror: () => reject(request.error) }));
  const pictures = (mode) => database.transaction("pictures", mode).objectStore("pictures");
  return {
    all: () => done(pictures("readonly").getAll()).catch(() => []),
    put: (entry) => done(pictures("readwrite").put(entry)),
    remove: (at) => pictures("readwrite").delete(at),
  };
}
