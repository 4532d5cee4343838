/** Times for the whole dial, before anybody has used it: a step count without one is tried unseen, while a picture rests. */

import { wireOf } from "./settings.js";

const AFFORDABLE = 1500; // milliseconds: where a picture takes longer, none is made only to be timed

export function createGauge(store, director, meter, { students, quickDecoder, generate }) {
  let running = new AbortController();
  store.subscribe(() => running.abort());
  director.onsettled(async () => {
    running.abort();
    const { signal } = (running = new AbortController());
    const settings = store.get();
    for (const steps of students) {
      if (meter.of(steps) != null) continue;
      if (meter.of(settings.steps) > AFFORDABLE) return;
      let took = 0;
      for (let tries = 0; tries < 2; tries += 1) { // the first loads the student
        const began = performance.now();
        try {
          const made = await generate({ ...wireOf(settings, steps), decoder: quickDecoder, format: "jpeg" }, { signal, patience: 0 });
          (await createImageBitmap(made.image)).close();
        } catch {
          return; // nobody asked for this picture: it is tried again when the next one rests
        }
        if (signal.aborted) return;
        took = performance.now() - began;
      }
      meter.note(steps, took);
    }
  });
}
