// One message on the page. Knows the look of a message, not the effect of its buttons.
// Invariant: `update` draws what changed since the last `update`; only LiveMarkdown draws an answer's text.

import { h, icon, iconButton } from "../lib/dom.js";
import { kindOf } from "../failures.js";
import { inWords } from "../lib/words.js";
import { copyText } from "./code.js";
import { RECONNECTING } from "./answer.js";
import { figuresOf } from "./cost.js";
import { LiveMarkdown } from "./live_markdown.js";
import { isSound, mediaOf } from "./media_parts.js";
import { viewOfMedium } from "./media_view.js";
import { labelOf } from "./text_files.js";
import { Thoughts } from "./thoughts.js";
import { ToolCalls } from "./tool_calls.js";

const TOO_LONG = "exceed_context_size_error";
const TOO_LARGE = "exceed_memory_error";
const LONG_QUESTION = { lines: 18, characters: 1500 };

/** `acts`: {edit(message, text), regenerate(message), regenerateWith(message), retry(message), choose(message, label of the button), giveResults(message, results), serverTools, startNew(), openRoom(), fileOf(id), media} */
export function viewOf(message, acts) {
  return message.role === "user" ? new QuestionView(message, acts) : new AnswerView(message, acts);
}

class QuestionView {
  constructor(message, acts) {
    this.message = message;
    this.#acts = acts;
    this.element = h("article.message.question", { "aria-label": "You", "data-id": message.id });
    this.#show();
  }

  #acts;
  #media = []; // views

  #show() {
    const { message } = this;
    this.#media = mediaOf(message).map((medium, at) => viewOfMedium(medium, this.#acts.media.urlOf(medium.id), `Attached ${isSound(medium) ? "sound" : "picture"} ${at + 1}`));
    this.siblings = h("span.siblings");
    this.element.replaceChildren(
      ...[
        this.#media.length ? h("div.media", {}, this.#media.map((view) => view.element)) : "",
        message.files?.length ? h("div.attachments", {}, message.files.map(fileOf)) : "",
        message.content ? bubbleOf(message.content) : "",
        h("div.message-tools", {},
          this.siblings,
          iconButton("edit", "Edit and ask again", () => this.edit(), { class: "icon-button small" }),
          copyButton(() => message.content)),
      ].filter(Boolean),
    );
  }

  edit() {
    const { message } = this;
    const text = h("textarea.input", { "aria-label": "Edited message", value: message.content, rows: Math.min(12, message.content.split("\n").length + 1) });
    const done = () => { this.#show(); this.update(this.#context); this.element.querySelector("button")?.focus(); };
    const submit = (event) => {
      event.preventDefault();
      if (text.value.trim() || message.files || this.#media.length) this.#acts.edit(message, text.value.trim());
    };
    const form = h("form.edit", { onsubmit: submit }, text,
      h("div.buttons", {},
        h("button.button.small", { type: "button", onclick: done }, "Cancel"),
        h("button.button.small.primary", { type: "submit" }, "Ask again")));
    text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
      if (event.key === "Escape") { event.stopPropagation(); done(); }
    });
    this.element.replaceChildren(form);
    text.focus();
    text.setSelectionRange(text.value.length, text.value.length);
  }

  #context = null;

  update(context) {
    this.#context = context;
    for (const view of this.#media) view.update();
    showSiblings(this.siblings, this.message, context.siblings, this.#acts);
  }
}

class AnswerView {
  #acts;
  #prose;
  #thoughts = new Thoughts();
  #calls;
  #isFinished = false;
  #parts = {};

  constructor(message, acts) {
    this.message = message;
    this.#acts = acts;
    const parts = this.#parts;
    parts.head = h("header.message-head", {}, h("span.author", {}, message.model ?? "Model"));
    parts.wait = h("div.wait", { hidden: true });
    parts.prose = h("div.prose");
    parts.end = h("div.message-end");
    parts.figures = h("div");
    this.siblings = h("span.siblings");
    this.versions = h("span.siblings"); // of the results of its calls
    this.#calls = new ToolCalls(message, this.versions, (results) => acts.giveResults(message, results), acts.serverTools);
    parts.tools = h("div.message-tools", {},
      this.siblings,
      copyButton(() => message.content || (message.toolCalls ?? []).map((call) => `${call.name}(${call.arguments})`).join("\n")),
      iconButton("retry", "Answer again", () => acts.regenerate(message), { class: "icon-button small" }),
      iconButton("swap", "Answer again with another model", () => acts.regenerateWith(message), { class: "icon-button small" }));
    this.element = h("article.message.answer", { "aria-label": `Answer of ${message.model ?? "a model"}`, "data-id": message.id },
      parts.head, parts.wait, this.#thoughts.element, parts.prose, this.#calls.element, parts.end, parts.figures, parts.tools);
    this.#prose = new LiveMarkdown(parts.prose);
  }

  /** `context`: {isRunning, siblings, pair: null | {isChosen}, given: results of its calls or null, versions: siblings of these, isLast} */
  update({ isRunning, siblings, pair, given, versions, isLast }) {
    const { message } = this;
    if (isRunning && this.#isFinished) this.#begin();
    this.element.setAttribute("aria-busy", String(isRunning));
    this.#showHead(pair);
    this.#showWait(isRunning);
    this.#thoughts.update(message, isRunning);
    this.#calls.update({ isRunning, given, isLast });
    if (given) showSiblings(this.versions, given, versions, this.#acts);
    else this.versions.replaceChildren();
    if (isRunning) {
      this.#prose.set(message.content);
    } else if (!this.#isFinished) {
      this.#isFinished = true;
      this.#prose.finish(message.content);
    }
    this.#showEnd(isRunning);
    this.#parts.figures.replaceChildren(...[figuresOf(message, isRunning)].filter(Boolean));
    this.#parts.tools.hidden = isRunning;
    showSiblings(this.siblings, message, siblings, this.#acts);
  }

  /** It was shown as it is stored, and goes on now. */
  #begin() {
    this.#isFinished = false;
    this.#prose = new LiveMarkdown(this.#parts.prose);
    this.#parts.end.replaceChildren();
    delete this.#parts.end.dataset.isShown;
  }

  #showHead(pair) {
    const wanted = pair === null || pair === undefined ? "" : pair.isChosen ? "chosen" : "other";
    if (this.#parts.head.dataset.pair === wanted) return;
    this.#parts.head.dataset.pair = wanted;
    this.#parts.head.querySelector(".pair-mark")?.remove();
    if (wanted === "chosen") this.#parts.head.append(h("span.pair-mark.chip", { "data-state": "loaded" }, "continues from here"));
    if (wanted === "other") this.#parts.head.append(h("button.pair-mark.button.small", { type: "button", onclick: () => this.#acts.choose(this.message) }, "Continue with this one"));
  }

  #showWait(isRunning) {
    const { wait } = this.#parts;
    const { message } = this;
    const isEmpty = !message.content && !message.reasoning && !message.toolCalls;
    const isWaiting = isRunning && (isEmpty || message.wait === RECONNECTING);
    wait.hidden = !isWaiting;
    if (!isWaiting) return;
    const { text, share } = waitInWords(message.wait, message.model);
    if (wait.dataset.text === text) return;
    wait.dataset.text = text;
    const bar = h("i");
    bar.style.transform = `scaleX(${share ?? 0})`;
    wait.replaceChildren(h("span.wait-text", {}, text), share === null ? h("span.wait-dots", { "aria-hidden": "true" }, h("i"), h("i"), h("i")) : h("div.progress", {}, bar));
  }

  #showEnd(isRunning) {
    const { end } = this.#parts;
    const { message } = this;
    if (isRunning || end.dataset.isShown) return;
    end.dataset.isShown = "true";
    if (message.isUnfinished) end.append(h("p.note", {}, "Unfinished"));
    if (message.isStopped) end.append(h("p.note", {}, "Stopped"));
    if (message.isCut) end.append(h("p.note", {}, "Ended at the limit of tokens or of the context"));
    if (message.error) end.append(failureOf(message, this.#acts));
  }
}

/** Its text is drawn when it is opened. */
function fileOf(file) {
  const text = h("pre", { tabindex: 0 });
  const draw = () => { text.textContent ||= file.text; };
  return h("details.file", { ontoggle: draw }, h("summary", {}, icon("clip"), labelOf(file)), text);
}

/** A long text shows its beginning; a button unfolds it. */
function bubbleOf(text) {
  const num_lines = text.split("\n").length;
  const bubble = h("div.bubble", {}, text);
  if (num_lines <= LONG_QUESTION.lines && text.length <= LONG_QUESTION.characters) return bubble;
  const words = num_lines > LONG_QUESTION.lines ? `Show all ${inWords(num_lines)} lines` : `Show all ${inWords(text.length)} characters`;
  const unfold = h("button.button.small.unfold", { type: "button", "aria-expanded": "false", onclick: () => {
    const isFolded = bubble.classList.toggle("is-folded");
    unfold.setAttribute("aria-expanded", String(!isFolded));
    unfold.textContent = isFolded ? words : "Show less";
  } }, words);
  bubble.classList.add("is-folded");
  return h("div.folding", {}, bubble, unfold);
}

// ---------------------------------------------------------------- failures

function failureOf(message, acts) {
  const { error } = message;
  const helps = { [TOO_LONG]: "shorter", [TOO_LARGE]: "memory" }[error.type]; // for these the page has plain words
  const kind = helps ? null : kindOf(error.message);
  const file = kind?.isFile ? acts.fileOf(message.model) : null;
  const raw = [kind && error.message, ...(error.log ?? [])].filter(Boolean);
  return h("div.failure", { role: "group", "aria-label": "Error" },
    h("strong", {}, headlineOf(message)),
    h("p", {}, kind?.text ?? error.message),
    file && h("p.failure-file", {}, "File: ", h("code", {}, file)),
    raw.length ? h("details", {}, h("summary", {}, "Output of the loader"), h("pre", { tabindex: 0 }, raw.join("\n"))) : null,
    h("div.buttons", {}, waysOut(message, helps ?? kind?.helps ?? "retry", acts)));
}

/** The button that helps is the last, and the main one. */
function waysOut(message, helps, acts) {
  const ways = [
    ["retry", "Try again", () => acts.retry(message)],
    ["another", "Choose another model", () => acts.regenerateWith(message)],
    ["memory", "Models and memory", () => acts.openRoom()],
    ["shorter", "New chat", () => acts.startNew()],
  ];
  const isShown = (way) => way === helps || way === "another" || (way === "retry" && helps !== "shorter");
  const shown = ways.filter(([way]) => isShown(way)).sort(([one], [other]) => (one === helps) - (other === helps));
  return shown.map(([way, label, act]) => h(`button.button.small${way === helps ? ".primary" : ""}`, { type: "button", onclick: act }, label));
}

function headlineOf({ error, content }) {
  if (error.type === TOO_LONG) return "The conversation is too long for this model";
  if (/failed to load|cannot be loaded/.test(error.message)) return "The model could not be loaded";
  return content ? "The answer is incomplete" : "There is no answer";
}

/** For the router's comments: `queued 2`, `loading 43% eta 1.2s`, `prefill`; the last with a percentage where its progress is known. */
export function waitInWords(comment, model) {
  if (comment === RECONNECTING) return { text: "The connection was lost. Trying again", share: null };
  const loading = /^loading(?: (\d+)%)?(?: eta ([\d.]+)s)?/.exec(comment ?? "");
  if (loading) {
    const rest = loading[2] ? `, about ${loading[2]} s` : "";
    return { text: `Loading ${model}${loading[1] ? ` ${loading[1]}%` : ""}${rest}`, share: loading[1] ? loading[1] / 100 : null };
  }
  const queued = /^queued(?: (\d+))?/.exec(comment ?? "");
  if (queued) return { text: queued[1] > 1 ? `Waiting for a place in memory, number ${queued[1]}` : "Waiting for a place in memory", share: null };
  const reading = /^prefill(?: (\d+)%)?/.exec(comment ?? "");
  if (reading) return { text: `Reading the prompt${reading[1] ? ` ${reading[1]}%` : ""}`, share: reading[1] ? reading[1] / 100 : null };
  return { text: "", share: null };
}

function showSiblings(holder, message, siblings, acts) {
  const at = siblings.findIndex((one) => one.id === message.id);
  if (siblings.length < 2 || at < 0) return holder.replaceChildren();
  const step = (by, name, label) => iconButton(name, label, () => acts.choose(siblings[at + by], label), { class: "icon-button small", disabled: !siblings[at + by] });
  return holder.replaceChildren(step(-1, "left", "Previous version"), h("span", {}, `${at + 1} / ${siblings.length}`), step(1, "right", "Next version"));
}

function copyButton(text) {
  return iconButton("copy", "Copy", (event) => copyText(event.currentTarget, text()), { class: "icon-button small" });
}
