/** A camera or a screen as a moving picture. */

import { el } from "./dom.js";

const SAID = {
  NotAllowedError: "The browser was not allowed to look. Allow it beside the address, then try again.",
  NotFoundError: "There is no camera here.",
  NotReadableError: "The camera is in use by something else.",
};

/** Begin to look. Throws an Error, in words. @param {"camera"|"screen"} kind @returns {Promise<{video: HTMLVideoElement, stop: () => void}>} */
export async function openFeed(kind, onend) {
  const devices = navigator.mediaDevices;
  const ask = kind === "camera" ? devices?.getUserMedia : devices?.getDisplayMedia;
  if (!ask) throw new Error("Browsers give a camera or screen only to pages from https or from this machine.");
  let stream = null;
  const stop = () => stream?.getTracks().forEach((track) => track.stop());
  try {
    const wanted = kind === "camera" ? { video: { width: { ideal: 640 }, facingMode: "user" } } : { video: { frameRate: { ideal: 15 } } };
    stream = await ask.call(devices, wanted);
    const video = el("video", { srcObject: stream, muted: true, playsInline: true });
    for (const track of stream.getTracks()) track.onended = onend;
    await video.play();
    return { video, stop };
  } catch (problem) {
    stop();
    throw new Error(SAID[problem.name] ?? problem.message);
  }
}
