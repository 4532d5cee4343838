/** From settings to pictures: quickly while something moves, fully when it rests. */

import { later } from "./dom.js";
import { keyOf, wireOf } from "./settings.js";

const REST = 150; // milliseconds without a change; shorter than the server's own wait for its second look
const QUICK = 110; // milliseconds that a picture may take and still follow typing
const MOVING = new Set(["typing", "slide", "walk", "demo"]);
const SHAPING = ["prompt", "blend", "blending", "blendWeight", "avoiding", "negative", "seed", "variations", "steps", "aspect", "size"];

/**
 * @param {{store: object, live: import("../fewstep.js").Live, meter: object, students: number[], canvas: HTMLCanvasElement}} parts
 * `onframe(frame)` hears of every frame; `onsettled(frame, key)` when it is the final one of the settings as they are.
 */
export function createDirector({ store, live, meter, students, canvas }) {
  const frames = new Set();
  const settled = new Set();
  const arrivals = [];
  let resting = true;

  const quickest = () => {
    const { steps } = store.get();
    const takes = meter.of(steps);
    return takes != null && takes <= QUICK ? steps : students[0] ?? steps;
  };
  const ask = (steps) => {
    const settings = store.get();
    if (director.paused || !settings.prompt.trim()) return 0;
    return live.ask({ ...wireOf(settings, Math.min(steps, students.at(-1) ?? steps)), ...director.also });
  };
  const rest = later(() => {
    resting = true;
    const { steps } = store.get();
    if (live.wanted?.steps !== steps) ask(steps);
  }, REST);

  store.subscribe((settings, changed, why) => {
    if (!SHAPING.some((name) => changed.has(name))) return;
    resting = !MOVING.has(why);
    if (resting) {
      rest.cancel();
      ask(settings.steps);
    } else {
      ask(quickest());
      if (why !== "walk") rest();
    }
  });

  const director = {
    /** Ask for what the settings say, whether or not they changed. Returns the generation. */
    ask: (steps = store.get().steps) => ask(steps),
    /** Whether someone else asks: the canvas, with its own picture. */
    paused: false,
    /** What a room wants of every picture besides: such pictures are not those of the settings, and none is settled. */
    also: {},
    /** The canvas element that pictures are shown on. */
    canvas,
    get generation() {
      return live.generation;
    },
    onframe: (listener) => frames.add(listener),
    onsettled: (listener) => settled.add(listener),
    /** The next frame of `generation` or newer. */
    arrival: (generation) => new Promise((resolve) => arrivals.push({ generation, resolve })),
    /** To be called with every frame of the session. */
    frame(frame) {
      meter.record(frame, live);
      for (const listener of frames) listener(frame);
      for (let i = arrivals.length - 1; i >= 0; i -= 1) {
        if (frame.header.generation >= arrivals[i].generation && !frame.header.preview) arrivals.splice(i, 1)[0].resolve(frame);
      }
      const current = frame.header.generation === live.generation && resting && frame.wanted.steps === store.get().steps;
      if (current && frame.header.final && !Object.keys(director.also).length) for (const listener of settled) listener(frame, keyOf(store.get()));
      frame.bitmap.close();
    },
  };
  return director;
}
