/** A second prompt, and how much of it. */

/** @param {{panel: HTMLElement, weight: HTMLInputElement, text: HTMLInputElement}} parts */
export function createBlend({ panel, weight, text }, store) {
  function render({ blending, blend, blendWeight }) {
    panel.hidden = !blending;
    if (document.activeElement !== text) text.value = blend;
    weight.value = String(blendWeight);
    weight.setAttribute("aria-valuetext", `${Math.round(100 * blendWeight)} percent`);
  }
  text.oninput = () => store.set({ blend: text.value }, "typing");
  text.onkeydown = ({ key }) => void (["Enter", "Escape"].includes(key) && text.blur()); // false would keep the key from the text
  weight.oninput = () => store.set({ blendWeight: Number(weight.value) }, "slide");
  store.subscribe(render);
  render(store.get());
  return {
    toggle(on) {
      store.set({ blending: on }, "blend");
      if (on) text.focus();
    },
    get on() {
      return store.get().blending;
    },
  };
}
