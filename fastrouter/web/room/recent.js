// The latest events as lines: loads, evictions with their reason, failures.

import { h } from "../lib/dom.js";
import { readPast } from "./history.js";
import { changeInWords, clockOf } from "./words.js";

const MAX_LINES = 8;

export class News {
  #models;
  #list = h("ol.room-news-list");

  constructor({ models }) {
    this.#models = models;
    this.element = h("section.room-news", { "aria-label": "Latest events" }, h("h3", {}, "Latest events"), this.#list);
  }

  draw() {
    const { past, usage } = this.#models;
    const lanes = readPast(past, usage, this.#models.now(), (id) => this.#models.isVariant(id));
    const marks = [...lanes].flatMap(([id, lane]) => lane.marks.filter(({ change }) => change.status !== "loading").map((mark) => ({ id, ...mark })));
    const newest = marks.sort((one, other) => other.time - one.time).slice(0, MAX_LINES);
    this.element.hidden = !newest.length;
    this.#list.replaceChildren(...newest.map(({ id, time, change, took_s }) =>
      h("li", { "data-failed": change.failed ? "true" : null }, h("time", { datetime: new Date(time * 1000).toISOString() }, clockOf(time)), h("span", {}, h("strong", {}, id), ` ${changeInWords(change, took_s)}`))));
  }
}
