/** Steps as a dial between fast and fine, with the time that each takes lately. */

import { el, inSteps, time } from "./dom.js";

/** @param {{track: HTMLElement, input: HTMLInputElement, stops: Element}} parts @param {number[]} students */
export function createDial({ track, input, stops }, students, store, meter) {
  const cells = students.map((steps) => el("div", { class: "stop", data: { steps } }, el("b", {}, String(steps)), el("span")));
  stops.replaceChildren(...cells);
  input.max = String(students.length - 1);
  track.style.setProperty("--count", students.length);

  function render() {
    const { steps } = store.get();
    const at = Math.max(0, students.indexOf(steps));
    track.style.setProperty("--at", at);
    input.value = String(at);
    students.forEach((count, i) => {
      const took = meter.of(count);
      cells[i].classList.toggle("chosen", count === steps);
      cells[i].lastChild.textContent = took == null ? "–" : time(took);
    });
    const took = meter.of(steps);
    input.setAttribute("aria-valuetext", `${inSteps(steps)}${took == null ? "" : `, ${time(took)}`}`);
  }

  const choose = (index) => store.set({ steps: students[Math.min(students.length - 1, Math.max(0, index))] }, "dial");
  const scrub = (event) => {
    const { left, width } = track.getBoundingClientRect();
    choose(Math.floor((students.length * (event.clientX - left)) / width));
  };
  track.addEventListener("pointerdown", (event) => {
    track.setPointerCapture(event.pointerId);
    input.focus({ preventScroll: true, focusVisible: false });
    scrub(event);
    track.onpointermove = scrub;
    event.preventDefault();
  });
  for (const end of ["pointerup", "pointercancel"]) track.addEventListener(end, () => (track.onpointermove = null));
  input.addEventListener("input", () => choose(Number(input.value)));
  store.subscribe((_, changed) => changed.has("steps") && render());
  meter.subscribe(render);
  render();
}
