/** A surface to paint on: the picture below, the mask above it, and what was there before. Knows nothing of models. */

import { el } from "./dom.js";

const REMEMBERED = 24; // states that can be gone back to
const MASKED = "#ff4f8b"; // how the mask is shown; its strength is the canvas' own

/** @param {HTMLElement} place @param {() => void} changed called with every stroke, as it grows */
export function createBoard(place, changed) {
  const paint = el("canvas", { class: "paint", aria: { label: "Your picture: paint on it", role: "img" } });
  const mask = el("canvas", { class: "mask", aria: { hidden: "true" } });
  const ring = el("span", { class: "ring", aria: { hidden: "true" } });
  const layers = { paint: paint.getContext("2d", { willReadFrequently: true }), mask: mask.getContext("2d", { willReadFrequently: true }) };
  const past = [];
  const tool = { kind: "brush", colour: "#dc3232", size: 28 };
  let last = null;
  let masked = false;
  place.append(paint, mask, ring);

  const whole = (context) => context.getImageData(0, 0, context.canvas.width, context.canvas.height);
  const remember = () => {
    past.push({ width: paint.width, height: paint.height, paint: whole(layers.paint), mask: whole(layers.mask), masked });
    if (past.length > REMEMBERED) past.shift();
  };
  const resize = (width, height) => {
    for (const canvas of [paint, mask]) Object.assign(canvas, { width, height });
    place.style.setProperty("--ratio", width / height);
  };

  /** A point of the page in pixels of the picture. */
  const point = ({ clientX, clientY }) => {
    const { left, top, width, height } = paint.getBoundingClientRect();
    return [((clientX - left) / width) * paint.width, ((clientY - top) / height) * paint.height];
  };
  function stroke([x, y]) {
    const context = tool.kind === "brush" ? layers.paint : layers.mask;
    const [fromX, fromY] = last ?? [x, y];
    context.globalCompositeOperation = tool.kind === "unmask" ? "destination-out" : "source-over";
    Object.assign(context, { strokeStyle: tool.kind === "brush" ? tool.colour : MASKED, lineWidth: tool.size, lineCap: "round", lineJoin: "round" });
    context.beginPath();
    context.moveTo(fromX, fromY);
    context.lineTo(x + 0.01, y);
    context.stroke();
    masked ||= tool.kind === "mask";
    last = [x, y];
    changed();
  }
  const moveRing = (event) => {
    const { left, top, width } = place.getBoundingClientRect();
    ring.style.setProperty("--x", `${event.clientX - left}px`);
    ring.style.setProperty("--y", `${event.clientY - top}px`);
    ring.style.setProperty("--size", `${(tool.size * width) / paint.width}px`);
  };
  mask.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    mask.setPointerCapture(event.pointerId);
    remember();
    last = null;
    stroke(point(event));
    mask.onpointermove = (move) => (move.getCoalescedEvents?.() ?? [move]).forEach((one) => stroke(point(one)));
  });
  for (const end of ["pointerup", "pointercancel"]) mask.addEventListener(end, () => (mask.onpointermove = last = null));
  place.addEventListener("pointermove", moveRing);

  const board = {
    paint, mask, tool,
    get masked() {
      return masked;
    },
    get size() {
      return [paint.width, paint.height];
    },
    /** Put a picture on the board, so that it covers it. @param {CanvasImageSource} picture */
    put(picture, width = paint.width, height = paint.height, { quietly = false } = {}) {
      if (paint.width && !quietly) remember();
      if (width !== paint.width || height !== paint.height) resize(width, height);
      const [own, ownHeight] = [picture.videoWidth || picture.width, picture.videoHeight || picture.height];
      const scale = Math.max(width / own, height / ownHeight);
      layers.paint.imageSmoothingQuality = "high";
      layers.paint.drawImage(picture, (width - own * scale) / 2, (height - ownHeight * scale) / 2, own * scale, ownHeight * scale);
      if (!quietly) changed();
    },
    fill(colour) {
      remember();
      layers.paint.fillStyle = colour;
      layers.paint.fillRect(0, 0, paint.width, paint.height);
      changed();
    },
    clearMask() {
      if (!masked) return;
      remember();
      layers.mask.clearRect(0, 0, mask.width, mask.height);
      masked = false;
      changed();
    },
    /** A larger frame: the new part repeats the edge, and is masked to be painted. */
    extend(left, top, right, bottom) {
      remember();
      const [picture, over] = [paint, mask].map(copyOf);
      const { width, height } = picture;
      resize(width + left + right, height + top + bottom);
      const context = layers.paint;
      context.imageSmoothingEnabled = false;
      for (const [sx, dx, wide, dw] of [[0, 0, 1, left], [0, left, width, width], [width - 1, left + width, 1, right]]) {
        for (const [sy, dy, tall, dh] of [[0, 0, 1, top], [0, top, height, height], [height - 1, top + height, 1, bottom]]) if (dw && dh) context.drawImage(picture, sx, sy, wide, tall, dx, dy, dw, dh);
      }
      context.imageSmoothingEnabled = true;
      layers.mask.fillStyle = MASKED;
      layers.mask.fillRect(0, 0, mask.width, mask.height);
      layers.mask.clearRect(left, top, width, height);
      layers.mask.drawImage(over, left, top);
      masked = true;
      changed();
    },
    undo() {
      const state = past.pop();
      if (!state) return;
      if (state.width !== paint.width || state.height !== paint.height) resize(state.width, state.height);
      layers.paint.putImageData(state.paint, 0, 0);
      layers.mask.putImageData(state.mask, 0, 0);
      masked = state.masked;
      changed();
    },
    /** The mask as the server has it: white is painted anew. */
    whiteMask() {
      const canvas = el("canvas", { width: mask.width, height: mask.height });
      const context = canvas.getContext("2d");
      context.drawImage(mask, 0, 0);
      context.globalCompositeOperation = "source-in";
      context.fillStyle = "#fff";
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.globalCompositeOperation = "destination-over";
      context.fillStyle = "#000";
      context.fillRect(0, 0, canvas.width, canvas.height);
      return canvas;
    },
  };
  return board;
}

function copyOf(canvas) {
  const copy = el("canvas", { width: canvas.width, height: canvas.height });
  copy.getContext("2d").drawImage(canvas, 0, 0);
  return copy;
}
