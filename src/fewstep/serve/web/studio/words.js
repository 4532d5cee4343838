/** What the model was taught: completions, ideas, and which words it does not know. Pure. */

/** @typedef {{subjects: string[], colours: string[], places: string[], words: string[]}} Vocabulary */
/** @typedef {{label: string, prompt: string, colour?: string}} Suggestion  `prompt` is the whole prompt if it is taken */

const GLUE = ["a", "an", "the", "and", "on", "in", "at", "of", "to", "by", "with", "left", "right", "above", "below", "small", "large", "background"];
const MOST = 7;

/** What could come next, or instead. @param {string} prompt @param {Vocabulary} vocabulary @returns {Suggestion[]} */
export function suggest(prompt, vocabulary, random = Math.random) {
  if (!vocabulary.subjects.length) return [];
  if (!prompt.trim()) return ideas(vocabulary, random);
  const [first, second] = /\son\s/i.test(prompt) ? [backgrounds, completions] : [completions, backgrounds];
  return first(prompt, vocabulary) ?? second(prompt, vocabulary) ?? ideas(vocabulary, random);
}

/** A few whole prompts. @returns {Suggestion[]} */
export function ideas({ subjects, colours }, random = Math.random) {
  return sample(subjects, MOST, random).map((subject) => {
    const [colour] = sample(colours.filter((name) => !subject.includes(name)), 1, random);
    return { label: subject, colour, prompt: colour ? `${article(subject)} on ${article(colour)} background` : article(subject) };
  });
}

/** Subjects whose name begins as the prompt ends. */
function completions(prompt, { subjects }) {
  const tail = prompt.toLowerCase();
  for (let words = 4; words > 0; words -= 1) {
    const start = tail.match(new RegExp(`(?:^|\\s)((?:\\S+\\s+){${words - 1}}\\S+)$`));
    if (!start || (GLUE.includes(start[1]) && words === 1)) continue;
    const begun = subjects.filter((name) => name.toLowerCase().startsWith(start[1]) && name.length > start[1].length);
    const inside = words > 1 ? [] : subjects.filter((name) => name.toLowerCase().includes(` ${start[1]}`));
    const before = prompt.slice(0, prompt.length - start[1].length);
    const found = [...begun, ...inside].slice(0, MOST).map((name) => ({ label: name, prompt: `${before || `${article(name).split(" ")[0]} `}${name}` }));
    if (found.length) return found;
  }
  return null;
}

/** Backgrounds, where the prompt names a subject: to add one, or to change or complete the one it has. */
function backgrounds(prompt, vocabulary) {
  const [, bare, on, comma] = prompt.match(/^(.+?)(?:\s+on(?:\s+an?)?(?:\s+(\w+))?(?:\s+b\w*)?\s*|,\s*(\w+)\s+b\w*\s*)?$/i) ?? [];
  if (!bare || !hasSubject(bare, vocabulary)) return null;
  const { colours, places } = vocabulary;
  const now = (on ?? comma ?? "").toLowerCase();
  const left = colours.includes(now) || !now ? colours.filter((colour) => colour !== now) : colours.filter((colour) => colour.startsWith(now));
  if (!left.length) return null;
  const of = (colour) => ({ label: colour, colour, prompt: `${bare.trimEnd()} on ${article(colour)} background` });
  return [...left.map(of), ...(now ? [] : places.slice(0, 4).map((place) => ({ label: place, prompt: `${bare.trimEnd()} ${place}` })))];
}

/** Whether something of the prompt can be drawn. */
export function hasSubject(prompt, { subjects }) {
  const text = ` ${split(prompt).join(" ")} `;
  return subjects.some((name) => text.includes(` ${name.toLowerCase()} `));
}

/** The words that no caption had, each with the nearest that one had or null. The word that is being typed is passed over. */
export function unknown(prompt, { words }, typing = true) {
  if (!words.length) return [];
  const { known, nearby } = lookedUp(words);
  const asked = split(prompt);
  const unfinished = typing && /[^\W_]$/u.test(prompt) ? asked.at(-1) : null;
  return [...new Set(asked)]
    .filter((word) => !known.has(word) && !/^\d+$/.test(word) && !(word === unfinished && [...known].some((name) => name.startsWith(word))))
    .map((word) => {
      if (!nearby.has(word)) nearby.set(word, nearest(word, known));
      return { word, near: nearby.get(word) };
    });
}

/** The words of captions one by one, and what was found nearest to others: with every key the whole prompt is looked up again. */
function lookedUp(words) {
  if (!seen.has(words)) seen.set(words, { known: new Set(words.flatMap(split)), nearby: new Map() });
  return seen.get(words);
}
const seen = new WeakMap(); // by their list

/** `prompt` with `word` replaced. */
export const replace = (prompt, word, by) => prompt.replace(new RegExp(`(?<![\\p{L}\\p{N}])${word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}(?![\\p{L}\\p{N}])`, "iu"), by);

/** "an owl", "a fox". */
export const article = (noun) => `${/^[aeiou]/i.test(noun) ? "an" : "a"} ${noun}`;

/** The words of a text, in lower case. */
export const split = (text) => text.toLowerCase().match(/[\p{L}\p{N}]+(?:[-'’][\p{L}\p{N}]+)*/gu) ?? [];

function nearest(word, known) {
  let best = null;
  let least = Math.max(1, Math.floor(word.length * 0.4)) + 1;
  for (const name of known) {
    if (Math.abs(name.length - word.length) >= least || name.length < 3) continue;
    const far = distance(word, name);
    if (far < least) [best, least] = [name, far];
  }
  return best;
}

/** Insertions, deletions, replacements and swaps of neighbours from `a` to `b`. */
function distance(a, b) {
  const rows = [Array.from({ length: b.length + 1 }, (_, j) => j)];
  for (let i = 1; i <= a.length; i += 1) {
    rows.push([i]);
    for (let j = 1; j <= b.length; j += 1) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      rows[i][j] = Math.min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + cost);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) rows[i][j] = Math.min(rows[i][j], rows[i - 2][j - 2] + 1);
    }
  }
  return rows[a.length][b.length];
}

function sample(list, count, random) {
  const left = [...list];
  return Array.from({ length: Math.min(count, left.length) }, () => left.splice(Math.floor(random() * left.length), 1)[0]);
}
