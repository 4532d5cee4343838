/** The studio: finds out what the server can do, makes the parts and ties them together. */

import { connect, generate, get } from "./fewstep.js";
import { createAvoid } from "./studio/avoid.js";
import { createBlend } from "./studio/blend.js";
import { createAspects, createSeed } from "./studio/choices.js";
import { createCompare } from "./studio/compare.js";
import { demo } from "./studio/demo.js";
import { createDial } from "./studio/dial.js";
import { createDirector } from "./studio/director.js";
import { $, pause, time } from "./studio/dom.js";
import { createDrop, isPicture } from "./studio/drop.js";
import { createGauge } from "./studio/gauge.js";
import { createHistory } from "./studio/history.js";
import { askKey, keepKey, keptKey } from "./studio/key.js";
import { createKeys } from "./studio/keys.js";
import { createMeter } from "./studio/meter.js";
import { createNotices, inWords, sentence } from "./studio/notices.js";
import { readRecord } from "./studio/png.js";
import { createPrompt } from "./studio/prompt.js";
import { createRooms } from "./studio/rooms.js";
import { copy, download, fileName } from "./studio/save.js";
import { createStore, fromRecord, shapeOf, wireOf } from "./studio/settings.js";
import { createStage } from "./studio/stage.js";
import { createTheme } from "./studio/theme.js";
import { createTools } from "./studio/tools.js";
import { createVariations } from "./studio/variations.js";
import { createWalk } from "./studio/walk.js";

const notices = createNotices($("notices"));
const state = document.querySelector(".state");
let key = keptKey();
let found = () => {}; // takes away what was said of a lost connection

createTheme($("theme"));
start();

async function start() {
  const { model, vocabulary } = await introduce();
  const students = model.steps;
  const store = createStore();
  if (!students.includes(store.get().steps)) store.set({ steps: model.default_steps });
  if (store.get().size) store.set(shapeOf(store.get().size, model)); // another model may have made it
  const meter = createMeter(document.querySelector(".spark"), document.querySelector(".latency"));
  const stage = createStage({ picture: $("picture"), frame: $("frame"), made: $("made") });
  const live = connect({ key, onframe: (frame) => director.frame(frame), onstate: stateChanged, onerror: notices.problem });
  function stateChanged(told) {
    showState(told);
    if (told.state === "live" && rooms.now()) rooms.show();
    if (told.reason?.status === 401 && !$("key").open) unlock();
  }
  async function unlock() { // a server that was started anew with another key
    live.key = key = await askKey($("key"), Boolean(key));
    keepKey(key);
    live.open();
  }
  const director = createDirector({ store, live, meter, students, canvas: stage.canvas });

  const studio = {
    store, director, live, meter, notices, vocabulary, students, model,
    teacher: Boolean(model.teacher_steps),
    quickDecoder: model.decoders.at(-1),
    key: () => key,
    generate: (wanted, options) => generate(wanted, { key, onbusy: (seconds, away) => notices.say(`The server ${away ? "does not answer" : "is busy"}. Trying again in ${Math.ceil(seconds)} s.`), ...options }),
  };
  const rooms = createRooms(studio);
  const history = await createHistory({ strip: $("strip"), forget: $("forget") }, store, notices, model);
  const seed = createSeed({ input: $("seed"), roll: $("roll"), lock: $("lock"), varied: $("varied") }, store, notices);
  const aspects = createAspects($("aspects"), model.sizes, store);
  createPrompt({ area: $("prompt"), list: $("suggestions"), hint: $("hint") }, store, vocabulary, () => seed.roll() || director.ask());
  createDial({ track: document.querySelector(".dial-track"), input: $("steps"), stops: $("stops") }, students, store, meter);
  createGauge(store, director, meter, studio);
  const tools = createTools({
    blend: createBlend({ panel: $("blend"), weight: $("blend-weight"), text: $("blend-prompt") }, store),
    avoid: createAvoid($("avoid-prompt"), store),
    variations: createVariations({ place: $("variations"), panel: $("panel-variations"), spread: $("spread"), reroll: $("reroll") }, store, director, studio, () => tools.render()),
    walk: createWalk({ panel: $("panel-walk"), pace: $("pace"), stop: $("walk-stop"), ring: $("walkring") }, store, director, () => tools.render()),
    compare: createCompare($("versus"), store, studio),
  }, store);

  director.onframe((frame) => rooms.now() === "create" && stage.show(frame));
  director.onsettled((frame, name) => !tools.walking && rooms.now() === "create" && history.offer(frame, name));

  const finished = async () => {
    if (!store.get().prompt.trim()) throw new Error("there is no prompt: say what to draw first");
    return (await studio.generate({ ...wireOf(store.get()), format: "png" })).image;
  };
  const save = () => finished().then((png) => download(png, `${fileName(store.get().prompt, store.get().seed)}.png`), notices.problem);
  $("download").onclick = save;
  $("share").onclick = async () => {
    try {
      const address = await live.share();
      await navigator.clipboard?.writeText(address).catch(() => {});
      notices.say(`The picture is also at ${address}. Give this address to OBS, or open it elsewhere.`, { lasting: true });
    } catch (problem) {
      notices.problem(problem);
    }
  };
  $("copy").onclick = () => copy(finished(), notices);
  createDrop($("drop"), async (file) => {
    const room = rooms.current();
    if (!isPicture(file)) return room.open ? room.open(file) : notices.say(`${file.name} is no picture. Lists and tables go to Batch.`);
    if (room.take) return room.take(file);
    try {
      const { settings, lost } = fromRecord(await readRecord(file), model);
      store.set(settings, "restore");
      notices.say(lost.length ? `Restored from the picture, all but ${sentence(lost)}.` : "Restored from the picture.");
    } catch (problem) {
      notices.problem(problem);
    }
  });

  const creating = (action) => () => rooms.now() === "create" && action();
  const keys = createKeys($("keys"), {
    "/": () => (document.querySelector(".room:not([hidden]) .prompt") ?? $("prompt")).focus(),
    ...Object.fromEntries(students.map((steps) => [String(steps), () => store.set({ steps }, "dial")])),
    a: creating(aspects.next), d: creating(seed.roll), l: seed.toggle, s: creating(save), y: creating(() => $("copy").click()),
    b: creating(() => tools.press("blend")), n: creating(() => tools.press("avoid")), v: creating(() => tools.press("variations")), w: creating(() => tools.press("walk")), c: creating(() => tools.press("compare")),
    ArrowLeft: creating(() => history.step(-1)), ArrowRight: creating(() => history.step(1)),
    Escape: creating(() => tools.close()),
  });
  $("help").onclick = keys.show;

  await rooms.show();
  $("prompt").readOnly = false; // what is typed before would be lost
  document.documentElement.dataset.ready = "true";
  if (matchMedia("(pointer: fine)").matches && rooms.now() === "create") $("prompt").focus();
  if (store.get().prompt.trim()) director.ask();
  else if (store.first && !store.get().locked) demo($("prompt"), store, students, vocabulary);
}

/** What the server can do. Asks until it answers, for it may be loading its model; asks the person for a key if the server does. */
async function introduce() {
  for (;;) {
    try {
      const [{ data }, vocabulary] = await Promise.all([get("/v1/models", { key }), get("/v1/words", { key })]);
      if (key) keepKey(key);
      return { model: data[0], vocabulary };
    } catch (problem) {
      if (problem.status === 401) key = await askKey($("key"), Boolean(key));
      else {
        showState({ state: "waiting", reason: problem, retryIn: 1000 });
        await pause(1000);
      }
    }
  }
}

/** The state of the connection, in a word, and why it is lost as a sentence. */
function showState({ state: name, reason, retryIn }) {
  const words = { connecting: "Connecting", live: "Live", waiting: "Reconnecting", closed: "Closed" };
  state.dataset.state = name;
  state.lastElementChild.textContent = words[name];
  state.title = name === "waiting" ? `${reason ? inWords(reason) : "The connection was lost."} Next try in ${time(retryIn)}.` : "";
  if (name === "live") found();
  else if (name === "waiting" && reason) found = notices.say(inWords(reason), { lasting: true });
}
