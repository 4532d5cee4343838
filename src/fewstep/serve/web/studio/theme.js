/** Light or dark: as the machine has it, until the person says otherwise. */

const KEPT = "fewstep.theme";

/** @param {HTMLElement} button */
export function createTheme(button) {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const show = (theme) => {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
  };
  try {
    show(localStorage.getItem(KEPT));
  } catch {
    // No memory: the machine's own choice it is.
  }
  button.onclick = () => {
    const now = root.dataset.theme ?? (dark.matches ? "dark" : "light");
    const next = now === "dark" ? "light" : "dark";
    const own = next === (dark.matches ? "dark" : "light");
    show(own ? null : next);
    try {
      if (own) localStorage.removeItem(KEPT);
      else localStorage.setItem(KEPT, next);
    } catch {
      // It lasts until the page is closed.
    }
  };
}
