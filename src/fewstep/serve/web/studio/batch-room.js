/** Many prompts, in many shapes, as one zip. */

import { shapeName } from "./choices.js";
import { fill, table } from "./csv.js";
import { $, button, el, time } from "./dom.js";
import { many } from "./many.js";
import { inWords } from "./notices.js";
import { download, fileName } from "./save.js";
import { segments } from "./segments.js";
import { randomSeed } from "./settings.js";
import { zip } from "./zip.js";

const LONGEST = 1 << 20; // bytes of a list
const MOST = 500; // pictures of one batch: they are held in memory until they are downloaded
const SHORT = { "1:1": "Square", "3:4": "Portrait", "9:16": "Story", "4:3": "Landscape", "16:9": "Wide" };
const LINES = ["a red apple on a blue background", "an owl on a yellow background", "a rocket on a black background", "a cupcake on a pink background"].join("\n");
const TABLE = "subject,colour\nfox,purple\npenguin,orange\nred heart,white\ncactus,yellow";
const TEMPLATE = "a {subject} on a {colour} background";

/** @param {HTMLElement} room */
export function build(room, studio) {
  const { model, store, notices } = studio;
  room.classList.add("work");
  room.innerHTML = `
    <section class="side-form" aria-label="What to make">
      <h1>Many at once</h1>
      <p class="lead">Prompts in, one zip out. Every picture says how it was made.</p>
      <div id="batch-kind"></div>
      <label class="block" id="batch-template-row" hidden><span>Template <small>names in braces are columns of the table</small></span>
        <input class="text" id="batch-template" spellcheck="false" autocomplete="off"></label>
      <label class="block"><span id="batch-text-label">Prompts <small>one a line</small></span>
        <textarea class="text code" id="batch-text" rows="7" spellcheck="false" autocomplete="off"></textarea></label>
      <fieldset class="block"><legend>Shapes</legend><div class="checks" id="batch-aspects"></div></fieldset>
      <div class="pair">
        <label class="block"><span>Pictures of each</span><input class="text" id="batch-count" type="number" min="1" max="50" value="1" inputmode="numeric"></label>
        <label class="block"><span>Steps</span><select class="select" id="batch-steps"></select></label>
      </div>
      <div class="go"><button class="button main" id="batch-go" type="button"></button><button class="button" id="batch-again" type="button" hidden></button><button class="button" id="batch-zip" type="button" hidden></button></div>
      <p class="hint" id="batch-said" role="status"></p>
    </section>
    <section class="results" aria-label="Pictures"><div class="cells" id="batch-cells"></div></section>`;
  const [text, template, count, steps, go, again, zipButton, said, cells] = ["text", "template", "count", "steps", "go", "again", "zip", "said", "cells"].map((name) => $(`batch-${name}`));
  const texts = { lines: LINES, table: TABLE };
  let kind = "lines";
  let running = null;
  let batch = { items: [], places: [], first: 0, chosen: 0 }; // what was begun last
  let made = [];

  const choice = segments("Kind of list", [["lines", "Prompts"], ["table", "Table"]], kind, (wish) => {
    texts[kind] = text.value;
    become(wish);
  });
  const opener = el("input", { type: "file", accept: ".csv,.tsv,.txt,text/csv,text/plain", hidden: true });
  const ask = button("open", "Open a file");
  ask.onclick = () => opener.click();
  opener.onchange = async () => {
    if (opener.files[0]) await open(opener.files[0]);
    opener.value = ""; // so that the same file can be opened again
  };
  $("batch-kind").append(choice.element, ask, opener);
  $("batch-kind").className = "row";
  template.value = TEMPLATE;
  for (const aspect of ["1:1", "3:4", "9:16", "4:3", "16:9"].filter((one) => one in model.sizes)) {
    $("batch-aspects").append(el("label", { title: `${shapeName(aspect)}, ${model.sizes[aspect].join(" × ")}` }, el("input", { type: "checkbox", value: aspect, checked: aspect === "1:1", onchange: plan }), SHORT[aspect]));
  }
  steps.append(...studio.students.map((value) => el("option", { value, textContent: value, selected: value === store.get().steps })));
  for (const input of [text, template, count]) input.oninput = plan;

  function become(wish) {
    kind = wish;
    choice.set(kind);
    text.value = texts[kind];
    $("batch-template-row").hidden = kind !== "table";
    $("batch-text-label").replaceChildren(kind === "table" ? "Table " : "Prompts ", el("small", {}, kind === "table" ? "comma-separated, names in the first line" : "one a line"));
    plan();
  }

  /** @param {File} file */
  async function open(file) {
    if (file.size > LONGEST) return notices.say(`${file.name} has more than 1 MB. Longer lists are for fewstep batch, on the command line.`);
    const content = await file.text().catch(() => "\0"); // a folder
    if (content.includes("\0")) return notices.say(`${file.name} is no list. Open a text of prompts, one a line, or a table as .csv or .tsv.`);
    const wish = /\.[ct]sv$/i.test(file.name) ? "table" : "lines";
    texts[kind] = text.value;
    texts[wish] = content.trim();
    become(wish);
  }

  /** All pictures of the batch, or an empty list and why. */
  function plan() {
    let prompts = [];
    said.textContent = "";
    try {
      prompts = kind === "lines" ? text.value.split("\n").map((line) => line.trim()).filter(Boolean) : table(text.value).rows.map((row) => fill(template.value, row));
    } catch (problem) {
      said.textContent = inWords(problem);
    }
    const aspects = [...room.querySelectorAll("#batch-aspects input:checked")].map((input) => input.value);
    const each = Math.max(1, Math.min(50, Number(count.value) || 1));
    const items = prompts.flatMap((prompt) => aspects.flatMap((aspect) => Array.from({ length: each }, (_, i) => ({ prompt, aspect, i }))));
    if (items.length > MOST) said.textContent = `That is ${items.length} pictures, and ${MOST} are the most at once.`;
    const good = items.length > 0 && items.length <= MOST;
    go.disabled = !running && !good;
    if (!running) go.textContent = items.length === 1 ? "Make 1 picture" : `Make ${items.length} pictures`;
    return good ? items : [];
  }

  /** Lay a new batch out. */
  function begin() {
    const items = plan();
    const places = items.map(({ prompt, aspect }) => el("figure", { class: "empty", title: prompt, style: { "--ratio": model.sizes[aspect][0] / model.sizes[aspect][1] } }));
    for (const image of cells.querySelectorAll("img")) URL.revokeObjectURL(image.src);
    cells.replaceChildren(...places);
    batch = { items, places, first: store.get().locked ? store.get().seed : randomSeed(), chosen: Number(steps.value) };
    made = [];
  }

  /** Make what the batch still lacks. */
  async function run() {
    const { items, places, first, chosen } = batch;
    const { signal } = (running = new AbortController());
    const began = performance.now();
    const todo = [...items.keys()].filter((i) => !made[i]);
    let ended = 0;
    let failed = 0;
    let away = true; // whether to wait for a server that does not answer: once in vain is enough for all
    again.hidden = zipButton.hidden = true;
    go.disabled = false;
    go.textContent = "Stop";
    for (const i of todo) places[i].replaceChildren();
    const make = async (place) => {
      const { prompt, aspect, i } = items[place];
      const wanted = { prompt, aspect, seed: first + i, steps: chosen, format: "png" };
      return { ...(await studio.generate(wanted, { signal, away })), wanted };
    };
    await many(todo, make, (number, result, problem) => {
      const place = places[todo[number]];
      ended += 1;
      place.classList.remove("empty");
      if (problem) {
        failed += 1;
        away &&= ![0, 503].includes(problem.status);
        place.append(el("figcaption", {}, inWords(problem)));
      } else {
        made[todo[number]] = result;
        place.append(el("img", { src: URL.createObjectURL(result.image), alt: result.wanted.prompt }));
      }
      said.textContent = `${ended} of ${todo.length}`;
    }, signal);
    running = null;
    const took = performance.now() - began;
    const good = made.filter(Boolean).length;
    const rest = items.length - good;
    plan();
    said.textContent = `${good} ${good === 1 ? "picture" : "pictures"} in ${time(took)}${failed ? `; ${failed} failed` : ""}.`;
    zipButton.hidden = !good;
    zipButton.textContent = `Download zip`;
    again.hidden = !rest;
    again.textContent = `Make the other ${rest}`;
  }

  zipButton.onclick = async () => {
    const files = [];
    const list = [];
    const digits = String(made.length).length;
    for (const [i, one] of made.entries()) {
      if (!one) continue;
      const { prompt, aspect, seed, steps: used } = one.wanted;
      const name = `${fileName(String(i + 1).padStart(digits, "0"), fileName(prompt), SHORT[aspect].toLowerCase(), seed)}.png`;
      files.push({ name, bytes: new Uint8Array(await one.image.arrayBuffer()) });
      list.push({ file: name, prompt, aspect, seed, steps: used, timings_ms: one.timings });
    }
    files.push({ name: "batch.json", bytes: new TextEncoder().encode(`${JSON.stringify(list, null, 1)}\n`) });
    download(zip(files), "fewstep-batch.zip");
  };
  go.onclick = () => {
    if (running) return running.abort();
    begin();
    run().catch(notices.problem);
  };
  again.onclick = () => run().catch(notices.problem);
  become("lines");
  return { open };
}
