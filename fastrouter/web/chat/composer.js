// The box for writing: the text, what is attached, send and stop, how full the context is. Knows no answer.
// Invariant: a written text is removed only after it was sent.

import { h, icon, iconButton } from "../lib/dom.js";
import { hasNoTemplate } from "../models.js";
import { inWords } from "../lib/words.js";
import { Attachments } from "./attachments.js";
import { canCall, canSee } from "./chat.js";
import { isWhole, pathOf } from "./conversation.js";

export class Composer {
  #form;
  #chat;
  #contextOf;
  #attachments;
  #pastes;
  #parts = {};

  /** `contextOf(model)`: tokens, or null. `editLast()` opens the last question again; `openSettings()` opens the settings at the tools.
   * `pastes`: a PasteLimit. */
  constructor(form, chat, { contextOf, editLast, openSettings, pastes }) {
    this.#form = form;
    this.#chat = chat;
    this.#contextOf = contextOf;
    this.#pastes = pastes;
    this.#attachments = new Attachments({
      model: () => chat.model && { id: chat.model.id, seesPictures: canSee(chat.model) },
      onChange: () => this.show(),
      intoText: (text) => { this.text = [this.text, text].filter(Boolean).join("\n\n"); },
    });
    const parts = this.#parts;
    parts.text = h("textarea", { id: "composer-text", rows: 1, placeholder: "Ask something", "aria-label": "Message", "aria-keyshortcuts": "/" });
    parts.file = h("input", { type: "file", multiple: true, hidden: true, "aria-label": "Files", onchange: () => this.#chosen() });
    parts.attach = iconButton("clip", "Attach files", () => parts.file.click());
    parts.note = h("p.composer-note", { role: "note", hidden: true });
    parts.send = h("button.send", { type: "submit", "aria-label": "Send", "data-tip": "Send (Enter)", disabled: true }, icon("send"));
    parts.stop = h("button.send.stop", { type: "button", "aria-label": "Stop", "data-tip": "Stop (Esc)", hidden: true, onclick: () => chat.stop() }, icon("stop"));
    parts.gauge = h("div.gauge", { hidden: true });
    parts.tools = h("button.quiet.composer-tools", { type: "button", hidden: true, onclick: openSettings }, icon("tool"), h("span"));
    form.append(parts.note,
      h("div.composer-box", {}, this.#attachments.element, parts.text, h("div.composer-row", {}, parts.attach, parts.file, parts.tools, parts.gauge, h("span.push"), parts.send, parts.stop)));
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

  #chosen() {
    const { file } = this.#parts;
    this.#attachments.add([...file.files]);
    file.value = "";
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

const hasFiles = ({ dataTransfer }) => dataTransfer?.types.includes("Files");

const isWaiting = (message) => (message?.toolCalls ?? []).some(isWhole);
