// The last minutes: tokens per second as a plot, and under it a lane for each model with its loads, its work and its evictions.
// Invariant: plot, lanes and scale share one time axis.

import { h } from "../lib/dom.js";
import { inWords } from "../lib/words.js";
import { Samples, readPast } from "./history.js";
import { Plot } from "./plot.js";
import { changeInWords, clockOf, durationInWords } from "./words.js";

const WINDOWS = [["1 min", 60], ["5 min", 300], ["30 min", 1800]];
const MAX_LANES = 12;
const GROWS_AFTER_S = 60;
const KEY = [
  [() => h("i", { "data-state": "loading" }), "loading"],
  [() => h("i", { "data-state": "loaded" }), "in memory"],
  [() => h("i", { "data-state": "busy" }), "at work"],
  [() => h("b", { "data-kind": "left" }), "left"],
  [() => h("b", { "data-kind": "failed" }), "failed"],
];

export class Timeline {
  #models;
  #palette;
  #samples = new Samples();
  #window_s = 60;
  #isChosen = false; // by the user; otherwise it grows with the history
  #plot;
  #parts = {};

  constructor({ models, palette }) {
    this.#models = models;
    this.#palette = palette;
    const parts = this.#parts;
    parts.now = h("span.room-figure-value");
    parts.choice = h("div.room-windows", { role: "group", "aria-label": "How far back" }, WINDOWS.map(([label, seconds]) => h("button", { type: "button", "data-seconds": String(seconds), "aria-pressed": String(seconds === this.#window_s), onclick: () => this.#choose(seconds) }, label)));
    this.#plot = new Plot(palette);
    parts.lanes = h("ul.room-lanes", { "aria-label": "What models did" });
    parts.start = h("span");
    parts.scale = h("div.room-scale", { "aria-hidden": "true" }, h("span", {}, parts.start, h("span", {}, "now")));
    parts.key = h("p.room-key", { "aria-hidden": "true" }, KEY.map(([element, label]) => h("span", {}, h("span.room-track", {}, element()), label)));
    parts.none = h("p.room-none", {}, "No model has been in memory yet. Loads, work and evictions are shown here.");
    this.element = h("section.room-timeline", { "aria-label": "Timeline" }, h("div.room-figure-head", {}, h("h3", {}, "Tokens per second"), parts.now, parts.choice), this.#plot.element, parts.lanes, parts.scale, parts.key, parts.none);
  }

  happened({ event, data }) {
    if (event === "usage") this.#samples.add(data);
  }

  close() {
    this.#plot.close();
  }

  draw() {
    const { usage, past } = this.#models;
    if (!usage) return;
    const now = usage.time;
    if (!this.#isChosen && past.length && now - past[0].time > GROWS_AFTER_S) this.#setWindow(300);
    const from = now - this.#window_s;
    const lanes = readPast(past, usage, Math.max(now, this.#models.now()), (id) => this.#models.isVariant(id));
    const shown = [...lanes].filter(([, lane]) => lane.spans.some((span) => span.to >= from) || lane.marks.some((mark) => mark.time >= from)).slice(-MAX_LANES);
    const rate = usage.models.reduce((sum, model) => sum + model.tokens_per_s, 0);
    this.#parts.now.replaceChildren(h("strong", {}, inWords(rate)), " now");
    const isEmpty = !shown.length;
    for (const part of [this.#parts.lanes, this.#parts.scale, this.#parts.key, this.#plot.element]) part.hidden = isEmpty;
    this.#parts.none.hidden = !isEmpty;
    if (isEmpty) return;
    this.#plot.draw(this.#samples.since(from), from, now);
    this.#parts.lanes.replaceChildren(...shown.map(([id, lane]) => this.#lane(id, lane, from, now)));
    this.#parts.start.textContent = `${WINDOWS.find(([, seconds]) => seconds === this.#window_s)[0]} ago`;
  }

  #choose(seconds) {
    this.#isChosen = true;
    this.#setWindow(seconds);
    this.draw();
  }

  #setWindow(seconds) {
    this.#window_s = seconds;
    for (const button of this.#parts.choice.children) button.setAttribute("aria-pressed", String(button.dataset.seconds === String(seconds)));
  }

  #lane(id, { spans, marks }, from, now) {
    const track = h("div.room-track");
    const place = (element, start, end) => {
      const left = Math.max(0, (start - from) / (now - from));
      const right = Math.min(1, (end - from) / (now - from));
      if (right < 0 || left > 1) return;
      element.style.left = `${100 * left}%`;
      if (end > start) element.style.width = `${100 * Math.max(0, right - left)}%`;
      track.append(element);
    };
    for (const span of spans) if (span.to >= from) place(h("i", { "data-state": span.state, title: `${id}: ${span.state}, ${durationInWords(span.to - Math.max(span.from, from))}` }), span.from, span.to);
    for (const [start, end] of within(this.#samples.busyOf(id), spans)) if (end >= from) place(h("i", { "data-state": "busy", title: `${id}: at work` }), start, end);
    const seen = marks.filter((mark) => mark.time >= from);
    for (const { time, change } of seen) {
      const kind = change.failed ? "failed" : change.status === "unloaded" ? "left" : null;
      if (kind) place(h("b", { "data-kind": kind, title: `${clockOf(time)} ${id} ${changeInWords(change)}` }), time, time);
    }
    return h("li.room-lane", { "data-model": id, "data-colour": String(this.#palette.of(id)) }, h("span.room-lane-name", { title: id }, h("span", {}, id)), track, h("span.only-spoken", {}, this.#spoken(spans, seen)));
  }

  #spoken(spans, seen) {
    const count = (isIt) => seen.filter(({ change }) => isIt(change)).length;
    const numbers = [[count((change) => change.status === "loaded"), "loads"], [count((change) => change.status === "unloaded" && !change.failed), "times left"], [count((change) => change.failed), "failures"]];
    return [spans.at(-1)?.state ?? "", ...numbers.filter(([number]) => number).map(([number, what]) => `${what}: ${number}`)].join(", ");
  }
}

/** A sample covers the time since the one before it: returns the parts of it in which the model was in memory. */
function within(times, spans) {
  const there = spans.filter((span) => span.state === "loaded");
  const parts = times.flatMap(([start, end]) => there.map((span) => [Math.max(start, span.from), Math.min(end, span.to)]));
  return parts.filter(([start, end]) => end > start);
}
