/** The seed with its dice and lock, and the shape. */

import { el } from "./dom.js";
import { randomSeed } from "./settings.js";

const NAMES = { "16:9": "Wide, 16:9", "4:3": "Landscape, 4:3", "1:1": "Square", "3:4": "Portrait, 3:4", "9:16": "Story, 9:16" };
const DIGITS = 15; // of a seed: a number of JavaScript holds them all
const ICON = 16; // pixels of the longer side of a shape's drawing

/** What people call a shape. */
export const shapeName = (aspect) => NAMES[aspect] ?? aspect;

/** @param {{input: HTMLInputElement, roll: HTMLElement, lock: HTMLElement, varied: HTMLElement}} parts @returns {{roll: () => boolean, toggle: () => void}} */
export function createSeed({ input, roll, lock, varied }, store, notices) {
  function render({ seed, locked, variations }) {
    varied.hidden = !variations.some(([, share]) => share > 0);
    if (document.activeElement !== input) input.value = String(seed);
    lock.setAttribute("aria-pressed", String(locked));
    lock.querySelector("use").setAttribute("href", `web/icons.svg#${locked ? "lock" : "unlock"}`);
    lock.title = locked ? "Let the seed go (L)" : "Keep this seed (L)";
    roll.disabled = locked;
  }
  /** Another seed, unless it is locked; whether it changed. */
  const another = () => {
    if (store.get().locked) return false;
    input.blur();
    store.set({ seed: randomSeed(), variations: [] }, "dice");
    roll.classList.remove("rolled");
    void roll.offsetWidth; // the animation begins anew
    roll.classList.add("rolled");
    return true;
  };
  const toggle = () => store.set({ locked: !store.get().locked }, "lock");
  roll.onclick = another;
  lock.onclick = toggle;
  varied.onclick = () => store.set({ variations: [] }, "dice");
  input.oninput = () => {
    const whole = input.value.replace(/\D/g, "");
    const digits = whole.slice(0, DIGITS);
    if (whole !== digits) notices.say(`This seed has ${whole.length} digits, and a browser counts no more than ${DIGITS}: the first ones are taken. fewstep generate --seed takes all.`);
    if (digits !== input.value) input.value = digits;
    if (digits) store.set({ seed: Number(digits), variations: [] }, "typing");
  };
  input.onblur = () => render(store.get());
  input.onkeydown = ({ key }) => void (["Enter", "Escape"].includes(key) && input.blur()); // false would keep the key from the text
  store.subscribe(render);
  render(store.get());
  return { roll: another, toggle };
}

/** @param {Element} place @param {Object<string, number[]>} sizes of the model, by aspect */
export function createAspects(place, sizes, store) {
  const aspects = Object.keys(sizes);
  const radios = aspects.map((aspect) => {
    const [width, height] = sizes[aspect];
    const scale = ICON / Math.max(width, height);
    const input = el("input", { type: "radio", name: "aspect", value: aspect, ariaLabel: shapeName(aspect) });
    input.onchange = () => store.set({ aspect, size: null }, "aspect");
    const drawing = el("i", { style: { "--w": `${width * scale}px`, "--h": `${height * scale}px` } });
    place.append(el("label", { title: `${shapeName(aspect)} (${width} × ${height})` }, input, drawing));
    return input;
  });
  const render = ({ aspect, size }) => radios.forEach((radio) => (radio.checked = !size && radio.value === aspect));
  store.subscribe(render);
  render(store.get());
  return { next: () => store.set({ aspect: aspects[(aspects.indexOf(store.get().aspect) + 1) % aspects.length], size: null }, "aspect") };
}
