// The tool calls of one answer, one card for each: name, arguments while they come, result. The user can write a missing result.
// A call of a tool of the server asks the user instead. Knows no request.
// Invariant: a card is made once and then changed; a result that the user writes stays until it is sent or cancelled.

import { h, icon } from "../lib/dom.js";
import { indented, JsonPrinter } from "../lib/json.js";
import { colour, copyButton } from "./code.js";
import { isWhole } from "./conversation.js";
import { questionOf } from "./tool_question.js";

const STATES = {
  coming: "writing its arguments",
  broken: "incomplete",
  waiting: "waits for its result",
  given: "has its result",
  passed: "got no result",
  asked: "asks to be run",
  running: "runs on the server",
  denied: "not allowed",
  stopped: "stopped",
};
const TIPS = { broken: "The arguments are not valid JSON. The call is left out of the conversation." };

export class ToolCalls {
  #message;
  #onGive;
  #cards = [];
  #isEditing = false;
  #shown = ""; // the data of the results and the buttons that are shown
  #foot = h("div.tool-foot");
  #siblings;
  #serverTools;
  #context = {};
  element;

  /** `onGive(results)`: one for each call, in their order. `siblings`: an element that shows the versions of the results. */
  constructor(message, siblings, onGive, serverTools) {
    this.#serverTools = serverTools;
    this.#message = message;
    this.#onGive = onGive;
    this.#siblings = siblings;
    this.element = h("form.tool-calls", { hidden: true, "aria-label": "Tool calls", onsubmit: (event) => this.#submit(event) }, this.#foot);
  }

  /** `given`: the message with the results, or null; `isLast`: nothing follows. */
  update({ isRunning, given, isLast }) {
    this.#context = { isRunning, given, isLast };
    const calls = this.#message.toolCalls ?? [];
    if (!calls.length) return;
    this.element.hidden = false;
    while (this.#cards.length < calls.length) this.#add(calls[this.#cards.length]);
    this.#cards.forEach((card, at) => card.update(isRunning && at + 1 === calls.length, !isRunning));
    if (!isRunning) this.#showResults();
  }

  #add(call) {
    const card = new Card(call);
    this.#cards.push(card);
    this.#foot.before(card.element);
  }

  #showResults() {
    const { given, isLast } = this.#context;
    const canWrite = this.#isEditing || (isLast && !given);
    const states = isLast && !given && !this.#isEditing ? this.#cards.map((_, at) => this.#serverTools.stateOf(this.#message, at)) : [];
    const shown = `${given?.id} ${isLast} ${canWrite} ${states}`;
    if (shown === this.#shown) return;
    this.#shown = shown;
    const isUseful = this.#cards.some((card, at) => card.isWhole && !states[at]);
    this.#cards.forEach((card, at) => {
      if (states[at]) card.showServer(states[at], this.#serverTools.resultOf(this.#message, at), this.#actsOf(at));
      else card.show(given ? (given.results[at] ?? "") : null, canWrite);
    });
    this.#foot.hidden = !isUseful || states.some((state) => ["asked", "running", "stopped"].includes(state));
    this.#foot.replaceChildren(this.#siblings, ...(canWrite ? this.#buttons() : [this.#editButton(given)]));
  }

  #actsOf(at) {
    const tools = this.#serverTools;
    return { allow: () => tools.allow(this.#message, at), always: () => tools.allow(this.#message, at, { isAlways: true }), deny: () => tools.deny(this.#message, at) };
  }

  #buttons() {
    const num = this.#cards.filter((card) => card.isWhole).length;
    return [
      h("span.push"),
      this.#isEditing && h("button.button.small", { type: "button", onclick: () => this.#edit(false) }, "Cancel"),
      h("button.button.small.primary", { type: "submit" }, num > 1 ? "Send the results" : "Send the result"),
    ].filter(Boolean);
  }

  #editButton(given) {
    return h("button.quiet", { type: "button", onclick: () => this.#edit(true) }, icon("edit"), given ? "Change the result" : "Give a result");
  }

  #edit(isEditing) {
    this.#isEditing = isEditing;
    this.#showResults();
    this.element.querySelector(isEditing ? "textarea" : ".tool-foot button")?.focus();
  }

  #submit(event) {
    event.preventDefault();
    this.#isEditing = false;
    this.#onGive(this.#cards.map((card, at) => this.#serverTools.resultOf(this.#message, at) ?? card.written));
  }
}

class Card {
  #call;
  #printer = new JsonPrinter();
  #num = 0; // characters of the arguments that are shown
  #isFinished = false;
  #chip = h("span.chip");
  #text = document.createTextNode("");
  #box; // of the arguments
  #result = h("div");
  #input = null;
  element;

  constructor(call) {
    this.#call = call;
    this.#box = boxOf("Arguments", this.#text, () => indented(call.arguments));
    this.#result.className = "tool-result";
    this.name = h("code");
    this.element = h("details.tool-call", { open: true }, h("summary", {}, icon("right"), icon("tool"), h("span.only-spoken", {}, "Call of "), this.name, this.#chip), this.#box, this.#result);
  }

  get isWhole() {
    return isWhole(this.#call);
  }

  get written() {
    return this.#input?.value ?? "";
  }

  update(isComing, isFinished) {
    const { name, arguments: text } = this.#call;
    if (this.name.textContent !== name) this.name.textContent = name;
    if (this.#isFinished) return;
    this.#text.appendData(this.#printer.print(text.slice(this.#num)));
    this.#num = text.length;
    this.#box.hidden = !this.#text.length;
    this.#say(isComing ? "coming" : "");
    if (isFinished) this.#finish();
  }

  #finish() {
    this.#isFinished = true;
    if (!this.isWhole) {
      this.#text.data = this.#call.arguments;
      this.#say("broken");
      return;
    }
    const code = this.#box.querySelector("code");
    colour(code, "json");
  }

  #say(state) {
    this.#chip.hidden = !state;
    this.#chip.textContent = STATES[state] ?? "";
    this.#chip.dataset.call = state;
    if (TIPS[state]) this.#chip.dataset.tip = TIPS[state];
  }

  /** A call that the server runs, after the user has allowed it. */
  showServer(state, result, acts) {
    this.#say(state);
    this.#input = null;
    this.element.setAttribute("aria-busy", String(state === "running"));
    const isOpen = state === "asked" || state === "stopped";
    this.#result.replaceChildren(...(isOpen ? [questionOf(this.#call.name, acts)] : result === null ? [] : [resultOf(result)]));
  }

  /** `result`: null if there is none; `canWrite`: the user may write it. */
  show(result, canWrite) {
    if (!this.isWhole) return;
    this.element.setAttribute("aria-busy", "false");
    this.#say(canWrite ? "waiting" : result === null ? "passed" : "given");
    const before = this.#input?.value;
    this.#input = canWrite ? inputOf(this.#call, before ?? result ?? "") : null;
    if (canWrite) this.#result.replaceChildren(h("label.field", {}, `Result of ${this.#call.name}`, this.#input));
    else this.#result.replaceChildren(...(result === null ? [] : [resultOf(result)]));
  }
}

function inputOf(call, value) {
  const input = h("textarea.input.mono", { rows: Math.min(10, value.split("\n").length + 1), value, required: true, spellcheck: "false", placeholder: "What the tool returned: text or JSON" });
  input.addEventListener("invalid", () => input.closest("details").setAttribute("open", "")); // so that the message is seen
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    input.form.requestSubmit();
  });
  return input;
}

function resultOf(result) {
  const text = indented(result);
  const box = boxOf("Result", text, () => text);
  if (text !== result) colour(box.querySelector("code"), "json");
  return box;
}

const boxOf = (label, text, copied) =>
  h("div.code", {}, h("div.code-head", {}, h("span", {}, label), copyButton(copied)), h("pre", { tabindex: 0, role: "region", "aria-label": label }, h("code", {}, text)));
