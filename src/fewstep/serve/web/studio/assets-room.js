/** Pictures for games and pages: tiles without a seam, cut-out sprites, and sheets of them. */

import { $, button, el, later } from "./dom.js";
import { many } from "./many.js";
import { inWords } from "./notices.js";
import { createPrompt } from "./prompt.js";
import { download, downloadCanvas, fileName } from "./save.js";
import { segments } from "./segments.js";
import { wireOf } from "./settings.js";
import { drawSheet, drawTiles } from "./sheet.js";
import { tint } from "./stage.js";
import { article } from "./words.js";

const CALM = 350; // milliseconds without a change until a sprite is cut out anew
const FEW = 12; // subjects that a sheet begins with
const MOST = 200;
const LEADS = {
  tile: "A picture whose opposite sides fit together, repeated. It follows as you type; the PNG is one of them.",
  sprite: "The subject without its background, as a PNG with transparency.",
  sheet: "Many sprites in one PNG, with a JSON file that says where each is.",
};

/** @param {HTMLElement} room */
export function build(room, studio) {
  const { store, director, notices, vocabulary } = studio;
  room.classList.add("work");
  room.innerHTML = `
    <section class="side-form" aria-label="What to make">
      <h1>Assets</h1>
      <div id="asset-kind"></div>
      <p class="lead" id="asset-lead"></p>
      <div class="ask" id="asset-ask"><textarea class="prompt small" id="asset-prompt" rows="1" maxlength="4000" spellcheck="false" autocomplete="off" autocapitalize="off" role="combobox"
        aria-expanded="false" aria-autocomplete="list" aria-controls="asset-suggestions" aria-label="Prompt" placeholder="a star on a blue background"></textarea>
        <p class="hint" id="asset-hint" role="status"></p><div class="suggestions" id="asset-suggestions" role="listbox" aria-label="Suggestions"></div></div>
      <label class="block" id="sheet-list"><span>Subjects <small>one a line</small></span><textarea class="text code" id="sheet-text" rows="9" spellcheck="false"></textarea></label>
      <div class="pair" id="sheet-facts">
        <label class="block"><span>Columns</span><input class="text" id="sheet-columns" type="number" min="1" max="32" value="4"></label>
        <label class="block"><span>Pixels of each</span><input class="text" id="sheet-cell" type="number" min="16" max="512" value="128"></label>
        <label class="block" id="sheet-ground-row"><span title="The background that is cut out">Drawn on</span><select class="select" id="sheet-ground"></select></label>
      </div>
      <label class="check" id="tile-drop"><input type="checkbox" id="tile-half"> Shift every other column by half</label>
      <div class="go" id="asset-go"></div>
      <p class="hint" id="asset-said" role="status"></p>
    </section>
    <section class="results" aria-label="Preview"><div class="frame checker" id="asset-frame"><canvas class="picture" id="asset" width="768" height="768" role="img" aria-label="Preview"></canvas></div></section>`;
  const canvas = $("asset");
  const said = (text) => ($("asset-said").textContent = text);
  const number = (id, least, most) => Math.min(most, Math.max(least, Math.round(Number($(id).value)) || least));
  let kind = "tile";
  let here = false;
  let running = new AbortController(); // of the sprite
  let making = new AbortController(); // of the sheet, which goes on while something else is looked at
  let sprite = null; // the cut-out as it is
  let sprites = []; // of the sheet, by the list that it was made of
  let told = ""; // how far the sheet is

  const choice = segments("Kind of asset", [["tile", "Tile"], ["sprite", "Sprite"], ["sheet", "Sheet"]], kind, become);
  $("asset-kind").append(choice.element);
  createPrompt({ area: $("asset-prompt"), list: $("asset-suggestions"), hint: $("asset-hint") }, store, vocabulary, () => {});
  const ground = $("sheet-ground");
  ground.append(...["white", ...vocabulary.colours.filter((name) => name !== "white")].map((name) => el("option", { value: name, textContent: name })));
  $("sheet-ground-row").hidden = !vocabulary.colours.length;
  $("sheet-text").value = vocabulary.subjects.slice(0, FEW).join("\n") || "a star";

  function become(wish) {
    kind = wish;
    running.abort();
    choice.set(kind);
    $("asset-lead").textContent = LEADS[kind];
    $("asset-ask").hidden = kind === "sheet";
    $("sheet-list").hidden = $("sheet-facts").hidden = kind !== "sheet";
    $("tile-drop").hidden = kind !== "tile";
    $("asset-frame").classList.toggle("flat", kind === "tile");
    said("");
    const save = button("download", "Download PNG", { class: kind === "sheet" ? "button" : "button main", onclick: () => savePng().catch(notices.problem) });
    const go = el("button", { type: "button", class: "button main", onclick: makeSheet }, "Make the sheet");
    const json = button("download", "JSON", { label: "Download the JSON file", onclick: saveJson });
    $("asset-go").replaceChildren(...(kind === "sheet" ? [go, save, json] : [save]));
    director.also = kind === "tile" ? { tile: "xy" } : {};
    director.ask();
    if (kind === "tile") tile(director.canvas);
    else if (kind === "sprite") cut();
    else sheetThere();
  }

  function tile(picture) {
    drawTiles(canvas, picture, $("tile-half").checked);
    $("asset-frame").style.setProperty("--ratio", canvas.width / canvas.height);
    tint(picture);
  }

  /** The picture as it is, without its background. */
  async function cut() {
    running.abort();
    const { signal } = (running = new AbortController());
    if (!here || kind !== "sprite" || !store.get().prompt.trim()) return;
    try {
      const made = await studio.generate({ ...wireOf(store.get()), transparent: true, format: "png" }, { signal });
      const bitmap = await createImageBitmap(made.image);
      sprite = made.image;
      Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
      canvas.getContext("2d").drawImage(bitmap, 0, 0);
      canvas.dataset.prompt = store.get().prompt;
      $("asset-frame").style.setProperty("--ratio", bitmap.width / bitmap.height);
    } catch (problem) {
      if (!signal.aborted) notices.problem(problem);
    }
  }
  const cutSoon = later(cut, CALM);

  const paintSheet = () => {
    drawSheet(canvas, sprites, number("sheet-columns", 1, 32), number("sheet-cell", 16, 512));
    $("asset-frame").style.setProperty("--ratio", canvas.width / canvas.height);
  };

  /** The sheet as far as it is made, and whether there is anything to download. */
  function sheetThere() {
    paintSheet();
    const made = sprites.some(({ image }) => image);
    for (const one of $("asset-go").querySelectorAll("button:not(.main)")) one.disabled = !made;
    said(told);
  }

  async function makeSheet() {
    making.abort();
    const { signal } = (making = new AbortController());
    const names = $("sheet-text").value.split("\n").map((line) => line.trim()).filter(Boolean).slice(0, MOST);
    const { seed, steps } = store.get();
    let ended = 0;
    let failed = "";
    told = "";
    sprites = names.map((name) => ({ name, image: null }));
    sheetThere();
    const make = async (name) => {
      const prompt = vocabulary.subjects.includes(name) && ground.value ? `${article(name)} on ${article(ground.value)} background` : name;
      return createImageBitmap((await studio.generate({ prompt, seed, steps, transparent: true, format: "png" }, { signal })).image);
    };
    await many(names, make, (i, image, problem) => {
      if (signal.aborted) return;
      ended += 1;
      if (problem) failed = inWords(problem);
      else sprites[i].image = image;
      told = ended < names.length ? `${ended} of ${names.length}` : failed || `${names.length} sprites.`;
      if (here && kind === "sheet") sheetThere();
    }, signal);
  }

  /** One tile, the sprite, or the sheet. */
  async function savePng() {
    if (kind === "sheet") return downloadCanvas(sheetCanvas(), "sheet.png");
    if (kind === "sprite") return sprite && download(sprite, `${fileName(store.get().prompt, "sprite")}.png`);
    const { image } = await studio.generate({ ...wireOf(store.get()), ...director.also, format: "png" });
    download(image, `${fileName(store.get().prompt, "tile")}.png`);
  }
  const sheetCanvas = () => {
    const whole = el("canvas");
    drawSheet(whole, sprites, number("sheet-columns", 1, 32), number("sheet-cell", 16, 512));
    return whole;
  };
  function saveJson() {
    const [columns, cell] = [number("sheet-columns", 1, 32), number("sheet-cell", 16, 512)];
    const where = sprites.map(({ name }, i) => ({ name, x: (i % columns) * cell, y: Math.floor(i / columns) * cell, w: cell, h: cell }));
    const atlas = { image: "sheet.png", width: canvas.width, height: canvas.height, sprites: where };
    download(new Blob([`${JSON.stringify(atlas, null, 1)}\n`], { type: "application/json" }), "sheet.json");
  }

  for (const id of ["sheet-columns", "sheet-cell"]) $(id).oninput = paintSheet;
  $("tile-half").onchange = () => tile(director.canvas);
  director.onframe(({ bitmap }) => here && kind === "tile" && tile(bitmap));
  store.subscribe((_, changed) => kind === "sprite" && !changed.has("locked") && cutSoon());
  return {
    enter() {
      here = true;
      become(kind);
    },
    leave() {
      here = false;
      running.abort();
      director.also = {};
      director.ask();
    },
  };
}
