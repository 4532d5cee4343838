/** Create, Canvas, Assets, Batch: one at a time, by the address' hash; the others are loaded when they are first wanted. */

const LOADERS = { canvas: () => import("./canvas-room.js"), assets: () => import("./assets-room.js"), batch: () => import("./batch-room.js") };

/** @param {object} studio what a room needs of the rest @returns {{now: () => string, current: () => object}} */
export function createRooms(studio) {
  const built = { create: {} };
  let now = "";

  async function show() {
    const asked = location.hash.slice(1);
    const name = asked in LOADERS ? asked : "create";
    if (name === now) return;
    built[now]?.leave?.();
    now = name;
    for (const room of document.querySelectorAll(".room")) room.hidden = room.id !== `room-${name}`;
    for (const link of document.querySelectorAll(".rooms a")) {
      if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (!built[name]) built[name] = (await LOADERS[name]()).build(document.getElementById(`room-${name}`), studio);
    if (now === name) built[name].enter?.();
    scrollTo(0, 0);
  }
  addEventListener("hashchange", show);
  return { show, now: () => now, current: () => built[now] ?? {} };
}
