/** Times for the whole dial, before anybody has used it: a step count without one is tried unseen, while a picture rests, once. */

import { wireOf } from "./settings.js";

const AFFORDABLE = 1500; // milliseconds: where a picture takes longer, none is made only to be timed
const TRIES = 3; // at once: the quickest counts, for the first loads the student, and the page may be busy

export function createGauge(store, director, meter, { students, quickDecoder, generate }) {
  const tried = new Set();
  let running = new AbortController();
  store.subscribe(() => running.abort());
  director.onsettled(async () => {
    running.abort();
    const { signal } = (running = new AbortController());
    const settings = store.get();
    for (const steps of students) {
      if (tried.has(steps) || meter.knows(steps)) continue;
      if (meter.of(settings.steps) > AFFORDABLE) return;
      let took = Infinity;
      for (let tries = 0; tries < TRIES && !(took > AFFORDABLE && tries); tries += 1) {
        const began = performance.now();
        try {
          const made = await generate({ ...wireOf(settings, steps), decoder: quickDecoder, format: "jpeg" }, { signal, patience: 0 });
          (await createImageBitmap(made.image)).close();
        } catch {
          return; // nobody asked for this picture: it is tried again when the next one rests
        }
        if (signal.aborted) return;
        took = Math.min(took, performance.now() - began);
      }
      tried.add(steps);
      meter.note(steps, took);
    }
  });
}
