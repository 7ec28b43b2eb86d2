// A model's log as its workers write it.
// Invariant: lines are text, at most MAX_LINES are kept, and they are added once a frame; when the user has scrolled up, the view stays there.

import { h } from "../lib/dom.js";

const MAX_LINES = 1000;
const TAIL = 200;

export class LogView {
  #leaving = new AbortController();
  #waiting = [];
  #frame = 0;

  constructor(id, api) {
    this.element = h("div.room-log", { role: "log", "aria-live": "off", "aria-label": `Log of ${id}`, tabindex: "0" });
    this.#say("No lines yet.");
    const path = `models/logs?follow=1&tail=${TAIL}&model=${encodeURIComponent(id)}`;
    api.events(path, { signal: this.#leaving.signal, onOpen: () => this.#clear(), onEvent: (line) => this.#add(line) }).catch((error) => this.#say(error.message));
  }

  close() {
    this.#leaving.abort();
    cancelAnimationFrame(this.#frame);
  }

  #say(text) {
    this.element.replaceChildren(h("p.room-log-empty", {}, text));
  }

  #clear() {
    this.#waiting = [];
    if (!this.element.querySelector(".room-log-empty")) this.#say("No lines yet.");
  }

  #add(line) {
    this.#waiting.push(line);
    this.#frame ||= requestAnimationFrame(() => this.#flush());
  }

  #flush() {
    this.#frame = 0;
    const { element } = this;
    const isAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 24;
    const lines = this.#waiting.splice(0).slice(-MAX_LINES);
    element.querySelector(".room-log-empty")?.remove();
    element.append(...lines.map(({ time, line }) => h("div.room-log-line", { "data-mark": line.startsWith("---") }, h("time", { datetime: time }, clock(time)), line)));
    while (element.children.length > MAX_LINES) element.firstChild.remove();
    if (isAtEnd) element.scrollTop = element.scrollHeight;
  }
}

const clock = (iso) => new Date(iso).toLocaleTimeString("en-GB");
