// The box for writing: the text, long pastes, pictures, send and stop, how full the context is. Knows no answer.
// Invariant: a written text is removed only after it was sent.

import { h, icon, iconButton } from "../lib/dom.js";
import { notify } from "../lib/dialogs.js";
import { hasNoTemplate } from "../models.js";
import { inWords } from "../lib/words.js";
import { canCall, canSee } from "./chat.js";
import { isWhole, pathOf } from "./conversation.js";

const MAX_PICTURE_BYTES = 12 << 20;
const LONG_PASTE = { lines: 30, characters: 2000 }; // a paste above one of these is folded

export class Composer {
  #form;
  #chat;
  #contextOf;
  #pictures = [];
  #pastes = []; // long texts, sent after the written one
  #parts = {};

  /** `contextOf(model)`: tokens, or null. `editLast()` opens the last question again; `openSettings()` opens the settings at the tools. */
  constructor(form, chat, { contextOf, editLast, openSettings }) {
    this.#form = form;
    this.#chat = chat;
    this.#contextOf = contextOf;
    const parts = this.#parts;
    parts.text = h("textarea", { id: "composer-text", rows: 1, placeholder: "Ask something", "aria-label": "Message", "aria-keyshortcuts": "/" });
    parts.file = h("input", { type: "file", accept: "image/*", multiple: true, hidden: true, "aria-label": "Pictures", onchange: () => this.#attach([...parts.file.files]) });
    parts.attach = iconButton("image", "Attach pictures", () => parts.file.click(), { hidden: true });
    parts.pictures = h("div.pictures", { hidden: true });
    parts.pastes = h("div.pastes", { hidden: true });
    parts.note = h("p.composer-note", { role: "note", hidden: true });
    parts.send = h("button.send", { type: "submit", "aria-label": "Send", "data-tip": "Send (Enter)", disabled: true }, icon("send"));
    parts.stop = h("button.send.stop", { type: "button", "aria-label": "Stop", "data-tip": "Stop (Esc)", hidden: true, onclick: () => chat.stop() }, icon("stop"));
    parts.gauge = h("div.gauge", { hidden: true });
    parts.tools = h("button.quiet.composer-tools", { type: "button", hidden: true, onclick: openSettings }, icon("tool"), h("span"));
    form.append(parts.note,
      h("div.composer-box", {}, parts.pictures, parts.text, parts.pastes, h("div.composer-row", {}, parts.attach, parts.file, parts.tools, parts.gauge, h("span.push"), parts.send, parts.stop)));
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
    this.#form.addEventListener("dragover", (event) => event.preventDefault());
    this.#form.addEventListener("drop", (event) => {
      event.preventDefault();
      this.#attach([...event.dataTransfer.files]);
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
    const content = [this.text.trim(), ...this.#pastes].filter(Boolean).join("\n\n");
    if ((!content && !this.#pictures.length) || this.#chat.isAnswering || !this.#chat.model) return;
    const pictures = canSee(this.#chat.model) ? this.#pictures : [];
    this.#pictures = [];
    this.#pastes = [];
    this.#parts.text.value = "";
    this.#written();
    this.#chat.send(content, pictures);
  }

  #written() {
    const { text } = this.#parts;
    text.style.height = "auto";
    text.style.height = `${Math.min(text.scrollHeight, 0.4 * innerHeight)}px`;
    this.show();
  }

  // ------------------------------------------------------------ pictures

  async #attach(files) {
    const pictures = files.filter((file) => file.type.startsWith("image/"));
    if (!pictures.length) return;
    if (!canSee(this.#chat.model)) return notify(`${this.#chat.model?.id ?? "This model"} cannot see pictures`);
    for (const file of pictures) {
      if (file.size > MAX_PICTURE_BYTES) notify(`${file.name} is larger than ${MAX_PICTURE_BYTES >> 20} MB`);
      else this.#pictures.push(await readFile(file));
    }
    this.#parts.file.value = "";
    this.show();
  }

  #showPictures() {
    const { pictures } = this.#parts;
    pictures.hidden = !this.#pictures.length;
    pictures.replaceChildren(...this.#pictures.map((url, at) => {
      const remove = () => { this.#pictures.splice(at, 1); this.show(); };
      return h("span.picture", {}, h("img", { src: url, alt: `Picture ${at + 1}` }), iconButton("close", `Remove picture ${at + 1}`, remove, { class: "icon-button small" }));
    }));
  }

  // ------------------------------------------------------------ long texts

  #pasted(event) {
    const pasted = event.clipboardData.getData("text/plain");
    this.#attach([...event.clipboardData.files]);
    if (pasted.length <= LONG_PASTE.characters && linesOf(pasted) <= LONG_PASTE.lines) return;
    event.preventDefault();
    this.#pastes.push(pasted.trimEnd());
    this.show();
  }

  /** Moves a paste into the written text, where it can be changed. */
  #unfold(at) {
    const [pasted] = this.#pastes.splice(at, 1);
    this.text = [this.text, pasted].filter(Boolean).join("\n\n");
  }

  #showPastes() {
    const { pastes } = this.#parts;
    pastes.hidden = !this.#pastes.length;
    pastes.replaceChildren(...this.#pastes.map((pasted, at) => {
      const words = `Pasted text, ${inWords(linesOf(pasted))} ${linesOf(pasted) === 1 ? "line" : "lines"}, ${inWords(pasted.length)} characters`;
      const remove = () => { this.#pastes.splice(at, 1); this.show(); this.focus(); };
      return h("span.paste", {},
        h("button.quiet", { type: "button", "data-tip": "Put it into the text, to read or change it", onclick: () => this.#unfold(at) }, words),
        iconButton("close", `Remove pasted text ${at + 1}`, remove, { class: "icon-button small" }));
    }));
  }

  // ------------------------------------------------------------ state

  show() {
    const { send, stop, attach, text } = this.#parts;
    const { model, second, isAnswering } = this.#chat;
    const hadFocus = document.activeElement === send || document.activeElement === stop;
    send.hidden = isAnswering;
    stop.hidden = !isAnswering;
    send.disabled = !model || (!this.text.trim() && !this.#pictures.length && !this.#pastes.length);
    attach.hidden = !canSee(model);
    text.placeholder = model ? `Ask ${[model, second].filter(Boolean).map(({ id, aliases, spellings }) => aliases.find((name) => !spellings.includes(name)) ?? id).join(" and ")}` : "Pick a model first";
    this.#showPictures();
    this.#showPastes();
    this.#showTools();
    this.#showNotes([model, second].filter(Boolean));
    this.#showGauge(model);
    if (hadFocus && isAnswering) stop.focus();
    else if (hadFocus) text.focus();
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
      !isAnswering && isWaiting(pathOf(conversation).at(-1)) && "The model waits for the result of a tool call. Send a message to continue without it.",
    ];
    note.textContent = notes.filter(Boolean).join(" ");
    note.hidden = !note.textContent;
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

const isWaiting = (message) => (message?.toolCalls ?? []).some(isWhole);

const linesOf = (text) => text.split("\n").length;

function readFile(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
