/** The picture: draws frames, says what they are, and lends the page their colour. */

import { inSteps, time } from "./dom.js";

const SAMPLE = 8; // pixels a side that a picture is shrunk to, to find the colour at its border

/** @param {{picture: HTMLCanvasElement, frame: Element, made: Element}} parts */
export function createStage({ picture, frame, made }) {
  const context = picture.getContext("2d");
  let first = { generation: -1, latency: 0 };
  return {
    /** Show a frame. Its generation, prompt and settings stand in the canvas' data, for whoever looks. */
    show({ bitmap, header, wanted, latency }) {
      const { width, height, generation, steps, seed, final, preview, decoder } = header;
      if (picture.width !== width || picture.height !== height) {
        Object.assign(picture, { width, height });
        document.documentElement.style.setProperty("--ratio", width / height);
        frame.style.setProperty("--ratio", width / height);
      }
      context.clearRect(0, 0, width, height);
      context.drawImage(bitmap, 0, 0, width, height);
      Object.assign(picture.dataset, { generation, prompt: wanted.prompt, steps, seed, final, decoder });
      picture.setAttribute("aria-label", `${wanted.prompt}, ${inSteps(steps)}`);
      if (generation !== first.generation && !preview) first = { generation, latency };
      const pace = Object.assign(document.createElement("b"), { textContent: time(first.latency) });
      made.replaceChildren(pace, `  ·  ${inSteps(steps)}  ·  ${width} × ${height}`);
      tint(picture);
    },
    canvas: picture,
  };
}

/** Give the page the colour that a picture has at its border. */
export function tint(picture) {
  const [red, green, blue] = borderColour(picture);
  document.documentElement.style.setProperty("--ambient", `rgb(${red} ${green} ${blue})`);
}

/** The mean colour along the border. @param {CanvasImageSource} picture */
export function borderColour(picture) {
  const small = (borderColour.canvas ??= new OffscreenCanvas(SAMPLE, SAMPLE)).getContext("2d", { willReadFrequently: true });
  small.drawImage(picture, 0, 0, SAMPLE, SAMPLE);
  const { data } = small.getImageData(0, 0, SAMPLE, SAMPLE);
  const sums = [0, 0, 0];
  let count = 0;
  for (let y = 0; y < SAMPLE; y += 1) {
    for (let x = 0; x < SAMPLE; x += 1) {
      if (x > 0 && x < SAMPLE - 1 && y > 0 && y < SAMPLE - 1) continue;
      count += 1;
      for (let channel = 0; channel < 3; channel += 1) sums[channel] += data[4 * (y * SAMPLE + x) + channel];
    }
  }
  return sums.map((sum) => Math.round(sum / count));
}
