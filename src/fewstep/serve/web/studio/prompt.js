/** Where the person types: grows with the text, suggests, and says which words the model does not know. */

import { el } from "./dom.js";
import { hasSubject, replace, suggest, unknown } from "./words.js";

const LONG = 140; // characters from which on a prompt is set in smaller type, and the picture stays beside it

/** @param {{area: HTMLTextAreaElement, list: Element, hint: Element}} parts @param {object} store @param {import("./words.js").Vocabulary} vocabulary @param {() => void} enter */
export function createPrompt({ area, list, hint }, store, vocabulary, enter) {
  let chosen = -1;
  let shown = "";
  let said = "";

  function render({ prompt }, force = false) {
    if (area.value !== prompt) area.value = prompt;
    area.classList.toggle("long", prompt.length > LONG);
    grow(area);
    if (prompt === shown && !force && list.children.length) return;
    shown = prompt;
    chosen = -1;
    list.replaceChildren(...suggest(prompt, vocabulary).map(chip));
    area.setAttribute("aria-expanded", String(list.children.length > 0));
    area.removeAttribute("aria-activedescendant");
    say(prompt);
  }

  function chip(suggestion, index) {
    const swatch = suggestion.colour ? [el("i", { style: { "--swatch": `var(--c-${suggestion.colour}, ${suggestion.colour})` } })] : [];
    const option = el("div", { class: "chip", id: `${list.id}-${index}`, aria: { role: "option", selected: "false" } }, ...swatch, suggestion.label);
    option.onpointerdown = (event) => event.preventDefault(); // the prompt keeps the focus, and a phone its keyboard
    option.onclick = () => take(suggestion.prompt);
    return option;
  }

  function take(prompt) {
    store.set({ prompt }, "suggestion");
    if (document.activeElement === area) area.setSelectionRange(prompt.length, prompt.length);
  }

  function choose(index) {
    list.children[chosen]?.setAttribute("aria-selected", "false");
    chosen = (index + list.children.length + 1) % (list.children.length + 1);
    if (chosen === list.children.length) chosen = -1;
    const option = list.children[chosen];
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest", inline: "nearest" });
    if (option) area.setAttribute("aria-activedescendant", option.id);
    else area.removeAttribute("aria-activedescendant");
  }

  function say(prompt) {
    const strange = unknown(prompt, vocabulary, document.activeElement === area);
    const about = JSON.stringify([prompt, strange]);
    if (about === said) return; // a button must not be replaced under the finger that leaves the prompt for it
    said = about;
    hint.replaceChildren();
    if (strange.length) {
      const [{ word, near }] = strange;
      hint.append(`“${word}” is new to this model.`);
      if (near) {
        const mend = el("button", { type: "button", textContent: near });
        mend.onclick = () => take(replace(prompt, word, near));
        hint.append(" The nearest it knows: ", mend);
      }
    } else if (vocabulary.subjects.length && /\s$/.test(prompt) && prompt.trim().split(/\s+/).length > 3 && !hasSubject(prompt, vocabulary)) {
      hint.append("Nothing here is a thing this model was taught to draw. Try one of these:");
    }
  }

  area.addEventListener("input", () => {
    const prompt = area.value.replace(/\n/g, " ");
    if (prompt !== area.value) {
      const { selectionStart, selectionEnd } = area; // of lines that were pasted amid others: a new value puts it at the end
      area.value = prompt;
      area.setSelectionRange(selectionStart, selectionEnd);
    }
    store.set({ prompt }, "typing");
  });
  area.addEventListener("blur", () => say(store.get().prompt));
  area.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      choose(chosen + (event.key === "ArrowDown" ? 1 : -1));
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (chosen >= 0) list.children[chosen].click();
      else enter();
    } else if (event.key === "Escape") {
      if (chosen >= 0) choose(-1);
      else area.blur();
    }
  });
  store.subscribe((settings, changed) => changed.has("prompt") && render(settings));
  addEventListener("resize", () => grow(area));
  render(store.get(), true);
  return { refresh: () => render(store.get(), true) };
}

function grow(area) {
  if (CSS.supports("field-sizing", "content")) return;
  area.style.setProperty("height", "auto");
  area.style.setProperty("height", `${area.scrollHeight}px`);
}
