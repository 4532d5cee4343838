/** Files that are dropped on the page, or pictures pasted into it. */

/** @param {File} file */
export const isPicture = (file) => file.type.startsWith("image/");

/** @param {HTMLElement} veil shown while a file is over the page @param {(file: File) => void} take */
export function createDrop(veil, take) {
  const holds = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  let inside = 0;
  const over = (event) => {
    if (!holds(event)) return;
    event.preventDefault();
    veil.hidden = false;
  };
  addEventListener("dragenter", (event) => {
    inside += 1;
    over(event);
  });
  addEventListener("dragover", over);
  addEventListener("dragleave", () => {
    inside = Math.max(0, inside - 1);
    if (!inside) veil.hidden = true;
  });
  addEventListener("drop", (event) => {
    inside = 0;
    veil.hidden = true;
    if (!holds(event)) return;
    event.preventDefault();
    const files = [...event.dataTransfer.files];
    const file = files.find(isPicture) ?? files[0];
    if (file) take(file);
  });
  addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find(isPicture);
    if (!file) return;
    event.preventDefault();
    take(file);
  });
}
