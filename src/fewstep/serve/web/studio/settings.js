/** What the person wants, in one place; who is interested is told what changed and why. */

const KEPT = "fewstep.settings";
const ELSEWHERE = { // of a record
  image: "the image that it began from", control: "the images that it follows", loras: "its LoRAs", prompt_2: "its second text", guidance_scale: "its guidance",
  tile: "that its sides fit together", transparent: "that its background is cut out", original_size: "what the model was told of sizes",
};
const SEEDS = 1_000_000; // of a random seed: short enough to say aloud
const SMALLEST = 64; // pixels of a side (engine/request.py)
/** As many variations as a request may have (engine/checks.py). */
export const MOST_VARIATIONS = 33;

/**
 * @typedef {object} Settings
 * @property {string} prompt
 * @property {boolean} blending   whether the second prompt counts
 * @property {string} blend       the second prompt
 * @property {number} blendWeight its share, 0 to 1
 * @property {boolean} avoiding   whether the negative prompt counts
 * @property {string} negative    what to lead the picture away from
 * @property {number} seed
 * @property {boolean} locked
 * @property {[number, number][]} variations seeds, and how far to go towards each from where the one before it led, 0 to 1
 * @property {number} steps
 * @property {string} aspect
 * @property {?number[]} size     width and height where no aspect has them
 */

/** @returns {Settings} */
export const fresh = () => ({
  prompt: "", blending: false, blend: "", blendWeight: 0.5, avoiding: false, negative: "", seed: randomSeed(), locked: false, variations: [], steps: 4, aspect: "1:1", size: null,
});

export const randomSeed = () => Math.floor(Math.random() * SEEDS);

/** The store. `set(patch, why)` tells subscribers `(settings, changed, why)`. */
export function createStore() {
  const kept = read();
  let current = { ...fresh(), ...kept };
  const listeners = new Set();
  return {
    /** Whether nothing was kept: nobody was here before. */
    first: !kept,
    get: () => current,
    set(patch, why = "") {
      const changed = new Set(Object.keys(patch).filter((name) => String(patch[name]) !== String(current[name])));
      if (!changed.size) return;
      current = { ...current, ...patch };
      write(current);
      for (const listener of listeners) listener(current, changed, why);
    },
    subscribe: (listener) => listeners.add(listener),
  };
}

/** A request as the server takes it. @param {Settings} settings */
export function wireOf(settings, steps = settings.steps) {
  const { prompt, seed, aspect, size, blend, blending, blendWeight, avoiding, negative, variations } = settings;
  const [first, ...further] = variations.filter(([, share]) => share > 0);
  return {
    prompt: prompt.trim(), seed, steps,
    ...(size ? { width: size[0], height: size[1] } : { aspect }),
    ...(blending && blend.trim() && blendWeight > 0 && { blend: blend.trim(), blend_weight: blendWeight }),
    ...(avoiding && negative.trim() && { negative: negative.trim() }),
    ...(first && { variation_seed: first[0], variation: first[1] }),
    ...(further.length && { variations: further.map(([seed, share]) => ({ seed, share })) }),
  };
}

/** What names the picture that these settings give. */
export const keyOf = (settings) => JSON.stringify(wireOf(settings));

/**
 * Settings from the record that a picture carries (engine/record.py), and `lost`: what of it the studio cannot do, in words.
 * @param {object} record @param {object} model of /v1/models
 */
export function fromRecord(record, model) {
  const { prompt, seed, steps, width, height } = record;
  if (typeof prompt !== "string" || !Number.isInteger(seed)) throw new Error("its record has no prompt and seed");
  const variations = variationsOf(record);
  if (![seed, ...variations.map(([other]) => other)].every(Number.isSafeInteger)) throw new Error("its seed has more digits than a browser can count: use fewstep generate --from");
  const text = (value) => (typeof value === "string" ? value : "");
  const [blend, negative] = [text(record.blend), text(record.negative)];
  const number = (value, otherwise) => (Number.isFinite(value) ? value : otherwise); // a file may say anything, and what is restored is kept
  const near = Number.isInteger(steps) && steps > 0 ? nearest(steps, model.steps) : null;
  const sized = [width, height].every((side) => Number.isInteger(side) && side > 0);
  const shape = sized ? shapeOf([width, height], model) : { aspect: "1:1", size: null };
  const [wide, high] = shape.size ?? model.sizes[shape.aspect];
  const settings = {
    prompt, seed, ...(near && { steps: near }),
    ...shape,
    blending: Boolean(blend), blend, blendWeight: number(record.blend_weight, 0.5),
    avoiding: Boolean(negative), negative,
    variations,
  };
  const lost = [
    ...(near && near !== steps ? [`its ${steps} steps, which are ${near} here`] : []),
    ...(sized && (wide !== width || high !== height) ? [`its size of ${width} × ${height}, which is ${wide} × ${high} here`] : []),
    ...Object.entries(ELSEWHERE).filter(([name]) => (name === "guidance_scale" ? record[name] > 1 : record[name]?.length || record[name] === true)).map(([, words]) => words),
  ];
  return { settings, lost };
}

/** What settings say of a picture with these sides: its aspect, the sides where no aspect has them, or the nearest aspect where the model cannot make them. */
export function shapeOf([width, height], { sizes, multiple_of: unit }) {
  const aspect = nearestAspect(width / height, sizes);
  const possible = [width, height].every((side) => side % unit === 0 && side >= SMALLEST && side <= 2 * sizes["1:1"][0]);
  return { aspect, size: possible && String(sizes[aspect]) !== String([width, height]) ? [width, height] : null };
}

/** The aspect whose sides are most nearly in this ratio. */
export function nearestAspect(ratio, sizes) {
  const far = (name) => Math.abs(Math.log(sizes[name][0] / sizes[name][1] / ratio));
  return Object.keys(sizes).reduce((best, one) => (far(one) < far(best) ? one : best));
}

/** Those of a record, as settings have them; none where one of them is no seed and share, or where there are too many. */
function variationsOf({ variation_seed: seed, variation: share, variations }) {
  const whole = [...(share ? [[seed, share]] : []), ...(Array.isArray(variations) ? variations : [])];
  const good = whole.every((one) => Array.isArray(one) && Number.isInteger(one[0]) && Number.isFinite(one[1]) && one[1] >= 0 && one[1] <= 1);
  return good && whole.length <= MOST_VARIATIONS ? whole : [];
}

/** The student that is nearest to `steps`, of two the finer one. */
const nearest = (steps, students) => students.reduce((best, one) => (Math.abs(one - steps) <= Math.abs(best - steps) ? one : best), students[0] ?? steps);

function read() {
  try {
    return JSON.parse(localStorage.getItem(KEPT));
  } catch {
    return null;
  }
}

function write(settings) {
  try {
    localStorage.setItem(KEPT, JSON.stringify(settings));
  } catch {
    // Storage is full or forbidden: the studio works without a memory.
  }
}
