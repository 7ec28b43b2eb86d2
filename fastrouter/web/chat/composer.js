// The box for writing: the text, what is attached, send and stop, how full the context is. Knows no answer.
// Invariant: a written text is removed only after it was sent.

import { h, icon, iconButton } from "../lib/dom.js";
import { hasNoTemplate } from "../models.js";
import { inWords } from "../lib/words.js";
import { notify } from "../lib/dialogs.js";
import { Attachments } from "./attachments.js";
import { canUseDevices, takePicture } from "./camera.js";
import { canCall, canHear, canSee } from "./chat.js";
import { isWhole, pathOf } from "./conversation.js";
import { isSound, mediaOf } from "./media_parts.js";
import { Recorder } from "./recorder.js";

const IS_PHONE = matchMedia("(hover: none) and (pointer: coarse)"); // its own camera is better than a dialog

export class Composer {
  #form;
  #chat;
  #contextOf;
  #attachments;
  #pastes;
  #recorder = new Recorder();
  #parts = {};

  /** `contextOf(model)`: tokens, or null. `costOf(model, kind, data URL)`: tokens of a picture or a sound, or null. `editLast()` opens the
   * last question again; `openSettings()` opens the settings at the tools. `pastes`: a PasteLimit. */
  constructor(form, chat, { contextOf, costOf, editLast, openSettings, pastes }) {
    this.#form = form;
    this.#chat = chat;
    this.#contextOf = contextOf;
    this.#pastes = pastes;
    this.#attachments = new Attachments({
      model: () => chat.model && { id: chat.model.id, seesPictures: canSee(chat.model), hearsSounds: canHear(chat.model), pictureSize: chat.model.architecture?.image_size },
      sentBytes: () => pathOf(chat.conversation).flatMap(mediaOf).reduce((sum, { bytes }) => sum + bytes, 0),
      costOf: (kind, url) => costOf(chat.model, kind, url),
      onChange: () => this.show(),
      onRemove: () => this.focus(),
      intoText: (text) => { this.text = [this.text, text].filter(Boolean).join("\n\n"); },
    });
    const parts = this.#parts;
    parts.text = h("textarea", { id: "composer-text", rows: 1, placeholder: "Ask something", "aria-label": "Message", "aria-keyshortcuts": "/" });
    parts.file = h("input", { type: "file", multiple: true, hidden: true, "aria-label": "Files", onchange: () => this.#chosen(parts.file) });
    parts.attach = iconButton("clip", "Attach files", () => parts.file.click());
    parts.photo = h("input", { type: "file", accept: "image/*", capture: "environment", hidden: true, "aria-label": "Photo", onchange: () => this.#chosen(parts.photo) });
    parts.camera = iconButton("camera", "Take a picture", () => this.#takePicture(), { hidden: true });
    parts.record = iconButton("microphone", "Record a sound", () => this.#record(), { hidden: true, "aria-pressed": "false" });
    parts.note = h("p.composer-note", { role: "note", hidden: true });
    parts.send = h("button.send", { type: "submit", "aria-label": "Send", "data-tip": "Send (Enter)", disabled: true }, icon("send"));
    parts.stop = h("button.send.stop", { type: "button", "aria-label": "Stop", "data-tip": "Stop (Esc)", hidden: true, onclick: () => chat.stop() }, icon("stop"));
    parts.gauge = h("div.gauge", { hidden: true });
    parts.tools = h("button.quiet.composer-tools", { type: "button", hidden: true, onclick: openSettings }, icon("tool"), h("span"));
    form.append(parts.note,
      h("div.composer-box", {}, this.#attachments.element, parts.text, h("div.composer-row", {}, parts.attach, parts.camera, parts.record, parts.file, parts.photo, parts.tools, parts.gauge, h("span.push"), parts.send, parts.stop)));
    this.#listen(editLast);
    this.show();
  }

  #listen(editLast) {
    const { text } = this.#parts;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    text.addEventListener("input", () => this.#written());
    text.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        this.#send();
      } else if (event.key === "ArrowUp" && !text.value) {
        event.preventDefault();
        editLast();
      }
    });
    text.addEventListener("paste", (event) => this.#pasted(event));
    // Anywhere on the page: elsewhere the browser would open the file in place of the page.
    document.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
    document.addEventListener("drop", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      this.#attachments.add([...event.dataTransfer.files]);
    });
    for (const name of ["opened", "changed", "running", "ended"]) this.#chat.addEventListener(name, () => this.show());
  }

  focus() {
    this.#parts.text.focus();
  }

  get text() {
    return this.#parts.text.value;
  }

  set text(value) {
    this.#parts.text.value = value;
    this.#written();
    this.focus();
  }

  #send() {
    const content = this.text.trim();
    if ((!content && this.#attachments.isEmpty) || this.#chat.isAnswering || !this.#chat.model) return;
    const attached = this.#attachments.take();
    this.#parts.text.value = "";
    this.#written();
    this.#chat.send(content, attached);
  }

  #written() {
    const { text } = this.#parts;
    text.style.height = "auto";
    text.style.height = `${Math.min(text.scrollHeight, 0.4 * innerHeight)}px`;
    this.show();
  }

  #chosen(input) {
    this.#attachments.add([...input.files]);
    input.value = "";
  }

  async #takePicture() {
    if (IS_PHONE.matches || !canUseDevices()) return this.#parts.photo.click();
    const file = await takePicture();
    if (file) await this.#attachments.add([file]);
    this.focus();
  }

  /** Begins a recording, or ends it. */
  async #record() {
    if (this.#recorder.isOn) return this.#recorder.stop();
    try {
      const file = await this.#recorder.record(() => this.#showDevices(this.#chat.model));
      await this.#attachments.add([file]);
    } catch (error) {
      notify(error.message);
    }
    this.#showDevices(this.#chat.model);
  }

  #pasted(event) {
    const { clipboardData } = event;
    const pasted = clipboardData.getData("text/plain");
    this.#attachments.add([...clipboardData.files]);
    if (!this.#pastes.isLong(pasted)) return;
    event.preventDefault();
    this.#attachments.addPaste(pasted);
  }

  // ------------------------------------------------------------ state

  show() {
    const { send, stop, text } = this.#parts;
    const { model, second, isAnswering } = this.#chat;
    const hadFocus = document.activeElement === send || document.activeElement === stop;
    send.hidden = isAnswering;
    stop.hidden = !isAnswering;
    send.disabled = !model || (!this.text.trim() && this.#attachments.isEmpty);
    text.placeholder = model ? `Ask ${[model, second].filter(Boolean).map(({ id, aliases, spellings }) => aliases.find((name) => !spellings.includes(name)) ?? id).join(" and ")}` : "Pick a model first";
    this.#showTools();
    this.#showDevices(model);
    this.#showNotes([model, second].filter(Boolean));
    this.#showGauge(model);
    if (hadFocus && isAnswering) stop.focus();
    else if (hadFocus) text.focus();
  }

  #showDevices(model) {
    const { camera, record } = this.#parts;
    const { isOn } = this.#recorder;
    camera.hidden = !canSee(model) || !(canUseDevices() || IS_PHONE.matches);
    record.hidden = !isOn && !(canHear(model) && canUseDevices());
    if (record.getAttribute("aria-pressed") === String(isOn)) return;
    record.setAttribute("aria-pressed", String(isOn));
    record.setAttribute("aria-label", isOn ? "Stop recording" : "Record a sound");
    record.replaceChildren(icon(isOn ? "stop" : "microphone"));
  }

  #showTools() {
    const { tools } = this.#parts;
    const found = this.#chat.toolsOf(this.#chat.conversation.sampling);
    tools.hidden = !found.length;
    const choice = this.#chat.conversation.sampling.tool_choice;
    tools.lastChild.textContent = `${found.length} ${found.length === 1 ? "tool" : "tools"}${choice ? `, ${choice}` : ""}`;
    tools.dataset.tip = `Tools of this conversation: ${found.map((tool) => tool.function.name).join(", ")}`;
  }

  #showNotes(models) {
    const { note } = this.#parts;
    const { conversation, isAnswering } = this.#chat;
    const notes = [
      noteOf(models.filter(hasNoTemplate), ["has no chat template: it was not made to chat, and may not answer the question.", "have no chat template: they were not made to chat, and may not answer the question."]),
      this.#chat.toolsOf(conversation.sampling).length && noteOf(models.filter((model) => !hasNoTemplate(model) && !canCall(model)), ["was not made to call tools: its chat template has no place for them.", "were not made to call tools: their chat templates have no place for them."]),
      this.#notSeen(models),
      !isAnswering && isWaiting(pathOf(conversation).at(-1)) && "The model waits for the result of a tool call. Send a message to continue without it.",
    ];
    note.textContent = notes.filter(Boolean).join(" ");
    note.hidden = !note.textContent;
  }

  /** Pictures and sounds that a model gets only as a note. */
  #notSeen(models) {
    const kinds = new Set([...this.#attachments.kinds, ...pathOf(this.#chat.conversation).flatMap(mediaOf).map((medium) => (isSound(medium) ? "sound" : "picture"))]);
    const blind = kinds.has("picture") && noteOf(models.filter((model) => !canSee(model)), ["cannot see pictures: it gets a note in their place.", "cannot see pictures: they get a note in their place."]);
    const deaf = kinds.has("sound") && noteOf(models.filter((model) => !canHear(model)), ["cannot hear sounds: it gets a note in their place.", "cannot hear sounds: they get a note in their place."]);
    return [blind, deaf].filter(Boolean).join(" ");
  }

  #showGauge(model) {
    const { gauge } = this.#parts;
    const last = pathOf(this.#chat.conversation).findLast((message) => message.figures?.num_prompt_tokens);
    const limit = model ? this.#contextOf(model) : null;
    gauge.hidden = !last || !limit;
    if (gauge.hidden) return;
    const used = last.figures.num_prompt_tokens + last.figures.num_tokens;
    const share = Math.min(1, used / limit);
    const bar = h("i");
    bar.style.transform = `scaleX(${share})`;
    gauge.dataset.isFull = String(share > 0.85);
    gauge.title = "Tokens of this conversation in the model's context";
    gauge.replaceChildren(h("span.gauge-bar", { "aria-hidden": "true" }, bar), h("span", {}, `${inWords(used)} of ${inWords(limit)} tokens`));
  }
}

const noteOf = (models, [one, several]) => (models.length ? `${models.map(({ id }) => id).join(" and ")} ${models.length > 1 ? several : one}` : "");

const hasFiles = ({ dataTransfer }) => dataTransfer?.types.includes("Files");

const isWaiting = (message) => (message?.toolCalls ?? []).some(isWhole);
