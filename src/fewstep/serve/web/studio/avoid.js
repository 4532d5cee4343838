/** What should not be there: a negative prompt. */

/** @param {HTMLInputElement} text */
export function createAvoid(text, store) {
  function render({ avoiding, negative }) {
    text.hidden = !avoiding;
    if (document.activeElement !== text) text.value = negative;
  }
  text.oninput = () => store.set({ negative: text.value }, "typing");
  text.onkeydown = ({ key }) => void (["Enter", "Escape"].includes(key) && text.blur()); // false would keep the key from the text
  store.subscribe(render);
  render(store.get());
  return {
    toggle(on) {
      store.set({ avoiding: on }, "avoid");
      if (on) text.focus();
    },
    get on() {
      return store.get().avoiding;
    },
  };
}
