/** How long pictures take, as the person feels it: from asking to seeing. Draws the line in the bar. */

import { time } from "./dom.js";

const KEPT = 40; // pictures in the line
const JUDGED = 9; // pictures that a step count's time is the median of

/** @param {Element} spark the svg @param {Element} latency where the last time is written */
export function createMeter(spark, latency) {
  const line = spark.querySelector("polyline");
  const last = [];
  const bySteps = new Map();
  const listeners = new Set();
  let generation = 0;
  let source = null;
  const note = (steps, milliseconds) => {
    bySteps.set(steps, [...(bySteps.get(steps) ?? []), milliseconds].slice(-JUDGED));
    for (const listener of listeners) listener(steps);
  };
  return {
    /** Count a picture of so many steps that was not shown. */
    note,
    /** Count a frame, unless it is a second look at a picture or a step on the way. */
    record({ header, latency: milliseconds }, session) {
      if (session === source && header.generation <= generation) return;
      [source, generation] = [session, header.generation];
      if (header.preview) return;
      last.push(milliseconds);
      if (last.length > KEPT) last.shift();
      draw(line, last);
      latency.textContent = time(milliseconds);
      note(header.steps, milliseconds);
    },
    /** Milliseconds that a picture of so many steps takes lately, or null. */
    of(steps) {
      const times = [...(bySteps.get(steps) ?? [])].sort((a, b) => a - b);
      return times.length ? times[Math.floor((times.length - 1) / 2)] : null;
    },
    /** Whether that is more than a first impression, which is of loading the student as well. */
    knows: (steps) => (bySteps.get(steps) ?? []).length > 1,
    subscribe: (listener) => listeners.add(listener),
  };
}

function draw(line, last) {
  const most = Math.max(120, ...last);
  const points = last.map((milliseconds, i) => `${(72 * (i + KEPT - last.length)) / (KEPT - 1)},${18 - (16 * milliseconds) / most}`);
  line.setAttribute("points", points.join(" "));
}
