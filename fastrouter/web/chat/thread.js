// The shown path of a conversation, and its scrolling. Knows no request.
// Invariant: a message keeps its view for as long as it is shown; the page follows an answer only while its reader is at the end.

import { h, iconButton } from "../lib/dom.js";
import { pairOf, pathOf, versionsOf } from "./conversation.js";
import { viewOf } from "./message_view.js";

const NEAR_PX = 80;

export class Thread {
  #element;
  #chat;
  #acts;
  #welcome;
  #giveFocus;
  #list = h("div.messages");
  #toEnd;
  #views = new Map();
  #isFollowing = true;
  #top = 0; // the last position
  #frame = 0;
  #waiting = new Set(); // messages to draw in the next frame

  /** `welcome`: {element, show()} of an empty conversation; `giveFocus()` moves the focus when its element is gone. */
  constructor(element, chat, acts, welcome, giveFocus) {
    this.#element = element;
    this.#chat = chat;
    this.#acts = acts;
    this.#welcome = welcome;
    this.#giveFocus = giveFocus;
    this.#toEnd = iconButton("down", "To the end", () => this.toEnd(), { class: "to-end", hidden: true });
    element.replaceChildren(this.#list, this.#toEnd);
    element.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    new ResizeObserver(() => this.#follow()).observe(this.#list); // also for colours and formulas that are added later
    chat.addEventListener("asked", () => this.toEnd());
    chat.addEventListener("opened", () => this.#open());
    chat.addEventListener("changed", () => this.show());
    chat.addEventListener("progress", ({ detail }) => this.#soon(detail));
    chat.addEventListener("ended", ({ detail }) => this.#draw(detail));
    this.#open();
  }

  #open() {
    this.#views.clear();
    this.#list.replaceChildren();
    this.show();
    if (pathOf(this.#chat.conversation).length) this.toEnd();
    else this.#toBeginning();
  }

  show() {
    const { conversation } = this.#chat;
    const path = pathOf(conversation);
    const rows = path.filter(({ role }) => role !== "tool").map((message) => this.#rowOf(message)); // results are shown with their calls
    const shown = new Set(rows.flatMap((row) => row.messages.map((message) => message.id)));
    for (const id of this.#views.keys()) if (!shown.has(id)) this.#views.delete(id);
    const elements = path.length ? rows.map((row) => row.element) : [this.#welcome.element];
    if (!path.length) this.#welcome.show();
    if (elements.length !== this.#list.children.length || elements.some((element, at) => element !== this.#list.children[at])) this.#replace(elements);
    for (const row of rows) for (const message of row.messages) this.#draw(message);
    this.#list.classList.toggle("is-empty", !path.length);
  }

  #replace(elements) {
    const focused = this.#list.contains(document.activeElement) ? document.activeElement : null;
    this.#list.replaceChildren(...elements);
    if (focused?.isConnected) focused.focus({ preventScroll: true });
    else if (focused) this.#giveFocus();
  }

  /** An answer of a pair is shown beside the other one. */
  #rowOf(message) {
    const pair = pairOf(this.#chat.conversation, message);
    if (pair.length < 2) return { element: this.#viewOf(message).element, messages: [message] };
    const key = `pair-${message.pair}`;
    const elements = pair.map((one) => this.#viewOf(one).element);
    const held = this.#list.querySelector(`[data-key="${key}"]`);
    const element = held ?? h("div.pair", { "data-key": key });
    if (elements.some((one, at) => element.children[at] !== one)) element.replaceChildren(...elements);
    return { element, messages: pair };
  }

  #viewOf(message) {
    let view = this.#views.get(message.id);
    if (!view) this.#views.set(message.id, (view = viewOf(message, this.#acts)));
    return view;
  }

  #soon(message) {
    if (!this.#views.has(message.id)) return;
    this.#waiting.add(message);
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      for (const one of this.#waiting) if (this.#chat.isRunning(one)) this.#draw(one);
      this.#waiting.clear();
    });
  }

  #draw(message) {
    const view = this.#views.get(message.id);
    if (!view) return;
    const { conversation } = this.#chat;
    const isPaired = pairOf(conversation, message).length > 1;
    const isChosen = conversation.chosen[message.parent ?? ""] === message.id;
    const siblings = isPaired && !isChosen ? [] : versionsOf(conversation, message);
    const next = conversation.messages[conversation.chosen[message.id]];
    const given = next?.role === "tool" ? next : null;
    const versions = given ? versionsOf(conversation, given) : [];
    view.update({ isRunning: this.#chat.isRunning(message), siblings, pair: isPaired ? { isChosen } : null, given, versions, isLast: !next });
  }

  /** Opens the last question for editing. */
  editLast() {
    const last = pathOf(this.#chat.conversation).findLast((message) => message.role === "user");
    if (last) this.#views.get(last.id)?.edit();
  }

  /** For a message that has replaced another: focuses its button for the next step. */
  focusVersions(message, label) {
    const view = message.role === "tool" ? this.#views.get(message.parent)?.versions : this.#views.get(message.id)?.siblings;
    const steps = [...(view?.querySelectorAll("button:enabled") ?? [])];
    (steps.find((button) => button.getAttribute("aria-label") === label) ?? steps[0])?.focus();
  }

  // ------------------------------------------------------------ scrolling

  toEnd() {
    this.#isFollowing = true;
    this.#follow();
    this.#toEnd.hidden = true;
  }

  /** For an empty conversation: it is read from the top, whatever cards are added. */
  #toBeginning() {
    this.#isFollowing = false;
    this.#element.scrollTop = 0;
    this.#toEnd.hidden = true;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#element;
    const isEmpty = this.#list.classList.contains("is-empty");
    // The text may grow before the event of our own scrolling comes: that is not a reader who scrolls away, because a reader scrolls up.
    if (isEmpty || scrollTop < this.#top) this.#isFollowing = false;
    if (!isEmpty && scrollHeight - scrollTop - clientHeight < NEAR_PX) this.#isFollowing = true;
    this.#top = scrollTop;
    this.#toEnd.hidden = isEmpty || this.#isFollowing;
  }

  #follow() {
    if (!this.#isFollowing) return this.#scrolled();
    this.#element.scrollTop = this.#element.scrollHeight;
    this.#top = this.#element.scrollTop;
  }
}
