// Takes a picture with a camera of this device, in a dialog. Knows no conversation.
// Invariant: the camera is on only while the dialog is open.

import { openDialog } from "../lib/dialogs.js";
import { h } from "../lib/dom.js";

/** Browsers give cameras and microphones only to pages of https and of this machine. */
export const canUseDevices = () => Boolean(navigator.mediaDevices?.getUserMedia);

/** A File, or null. */
export async function takePicture() {
  const video = h("video", { autoplay: true, playsinline: true, muted: true, "aria-label": "What the camera sees" });
  const problem = h("p.camera-problem", { role: "alert", hidden: true });
  const take = h("button.button.primary", { type: "button", disabled: true }, "Take the picture");
  const camera = new Camera(video, () => { take.disabled = false; take.focus(); }, (text) => { problem.textContent = text; problem.hidden = false; video.hidden = true; });
  camera.start();
  try {
    return await openDialog("Take a picture", (close) => {
      take.addEventListener("click", async () => close(await pictureOf(video)));
      return h("div.inside.camera", {}, h("h2", {}, "Take a picture"), video, problem,
        h("div.buttons", {}, h("button.button", { type: "button", autofocus: true, onclick: () => close() }, "Cancel"), take));
    });
  } finally {
    camera.stop();
  }
}

class Camera {
  #video;
  #onReady;
  #onProblem;
  #stream = null;
  #isStopped = false;

  constructor(video, onReady, onProblem) {
    this.#video = video;
    this.#onReady = onReady;
    this.#onProblem = onProblem;
  }

  async start() {
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
    } catch (error) {
      return this.#onProblem(problemOf(error, "camera"));
    }
    if (this.#isStopped) return this.stop(); // the dialog was closed while the browser asked
    this.#video.addEventListener("loadeddata", this.#onReady, { once: true });
    this.#video.srcObject = this.#stream;
  }

  stop() {
    this.#isStopped = true;
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
  }
}

/** `device`: camera or microphone. */
export function problemOf({ name, message }, device) {
  if (name === "NotAllowedError") return `This page may not use the ${device}: allow it in the browser, beside the address`;
  if (name === "NotFoundError" || name === "OverconstrainedError") return `This device has no ${device}`;
  return `The ${device} cannot be used: ${message}`;
}

async function pictureOf(video) {
  const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
  return new File([blob], "Photo.jpg", { type: "image/jpeg" });
}
