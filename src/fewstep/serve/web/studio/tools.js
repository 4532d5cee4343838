/** The four tools: which is on. Blend goes with any other; of the rest there is one at a time. */

const ALONE = ["variations", "walk", "compare"];

/** @param {Object<string, {on: boolean, toggle: (on: boolean) => void}>} tools */
export function createTools(tools, store) {
  const buttons = [...document.querySelectorAll("[data-tool]")];
  const render = () => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(tools[button.dataset.tool].on));
  };
  const press = (name) => {
    const on = !tools[name].on;
    if (on && ALONE.includes(name)) for (const other of ALONE) if (other !== name && tools[other].on) tools[other].toggle(false);
    tools[name].toggle(on);
    render();
  };
  for (const button of buttons) button.onclick = () => press(button.dataset.tool);
  store.subscribe(render);
  render();
  return {
    press,
    render,
    close: () => ALONE.forEach((name) => tools[name].on && press(name)),
    get walking() {
      return tools.walk.on;
    },
  };
}
