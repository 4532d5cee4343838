/** Create, Canvas, Assets, Batch: one at a time, by the address' hash; the others are loaded when they are first wanted. */

import { $, el } from "./dom.js";

const LOADERS = { canvas: () => import("./canvas-room.js"), assets: () => import("./assets-room.js"), batch: () => import("./batch-room.js") };
const AWAY = "This room is not here yet: the server did not send it. It comes when the server answers again, or when it is chosen once more above.";

/** @param {object} studio what a room needs of the rest @returns {{show: () => Promise<void>, now: () => string, current: () => object}} */
export function createRooms(studio) {
  const rooms = { create: Promise.resolve({}) }; // that were wanted, as they will be when they are loaded
  const links = [...document.querySelectorAll(".rooms a")];
  let now = "";
  let inside = null; // the room that was entered: none while the one that is wanted is being loaded

  async function load(name) {
    const place = $(`room-${name}`);
    const module = await LOADERS[name]().catch(() => null);
    if (module) return module.build(place, studio);
    delete rooms[name];
    place.replaceChildren(el("p", { class: "hint", aria: { role: "alert" } }, AWAY));
    return null;
  }

  /** Go where the address says; where one is already, try again if the room did not come. */
  async function show() {
    const asked = location.hash.slice(1);
    const name = asked in LOADERS ? asked : "create";
    if (name === now && rooms[name]) return;
    inside?.leave?.();
    inside = null;
    now = name;
    for (const room of document.querySelectorAll(".room")) room.hidden = room.id !== `room-${name}`;
    for (const link of links) {
      if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    scrollTo(0, 0);
    const room = await (rooms[name] ??= load(name));
    if (!room || name !== now || room === inside) return;
    inside = room;
    room.enter?.();
    scrollTo(0, 0);
  }
  addEventListener("hashchange", show);
  for (const link of links) link.addEventListener("click", () => link.hash === location.hash && show());
  return { show, now: () => now, current: () => inside ?? {} };
}
