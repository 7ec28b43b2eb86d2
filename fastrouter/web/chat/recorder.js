// Records what a microphone of this device hears. Knows no page and no conversation.
// Invariant: the microphone is on only between `start` and the end of the recording.

import { problemOf } from "./camera.js";
import { MAX_SECONDS } from "./sound_files.js";

export class Recorder {
  #recorder = null;
  #limit = 0;

  get isOn() {
    return this.#recorder !== null;
  }

  /** Resolves with a File after `stop`, or after MAX_SECONDS. `onStart()`: the user may speak. Throws an Error for the user. */
  async record(onStart) {
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch (error) {
      throw new Error(problemOf(error, "microphone"));
    }
    try {
      return await this.#recordingOf(stream, onStart);
    } finally {
      clearTimeout(this.#limit);
      this.#recorder = null;
      for (const track of stream.getTracks()) track.stop();
    }
  }

  #recordingOf(stream, onStart) {
    return new Promise((resolve, reject) => {
      const recorder = new MediaRecorder(stream);
      const parts = [];
      recorder.ondataavailable = ({ data }) => parts.push(data);
      recorder.onerror = ({ error }) => reject(new Error(problemOf(error ?? {}, "microphone")));
      recorder.onstop = () => resolve(new File(parts, "Recording", { type: recorder.mimeType }));
      recorder.onstart = onStart;
      this.#recorder = recorder;
      recorder.start();
      this.#limit = setTimeout(() => this.stop(), 1000 * (MAX_SECONDS - 1));
    });
  }

  stop() {
    if (this.#recorder?.state === "recording") this.#recorder.stop();
  }
}
