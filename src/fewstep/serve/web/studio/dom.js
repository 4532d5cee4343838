/** The few shorthands for the page that every part uses. */

export const $ = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

/** An element with properties and children; `data`, `style` and `aria` are objects, `class` a text. */
export function el(tag, { class: name, data = {}, style = {}, aria = {}, ...rest } = {}, ...children) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  Object.assign(element.dataset, data);
  for (const [key, value] of Object.entries(style)) element.style.setProperty(key, value);
  for (const [key, value] of Object.entries(aria)) element.setAttribute(key === "role" ? "role" : `aria-${key}`, value);
  Object.assign(element, rest);
  element.append(...children);
  return element;
}

/** A drawing from icons.svg. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `web/icons.svg#${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** A button with a drawing and, if it has one, a text; without a text `label` is what a screen reader says. */
export function button(drawing, text, { label = text, class: name = text ? "button" : "icon", ...rest } = {}) {
  return el("button", { type: "button", class: name, title: label, aria: { label }, ...rest }, icon(drawing), ...(text ? [text] : []));
}

export const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Call `what` when nothing was asked of it for so long. */
export function later(what, milliseconds) {
  let timer;
  const call = (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => what(...given), milliseconds);
  };
  call.cancel = () => clearTimeout(timer);
  return call;
}

/** "1 step" or "4 steps". */
export const inSteps = (count) => `${count} ${count === 1 ? "step" : "steps"}`;

/** "46 ms" or "1.2 s". */
export function time(milliseconds) {
  if (milliseconds == null) return "";
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}
