// Tokens per second of each model over time, drawn by uPlot.
// Invariant: it is as wide as its element, has no axis, and takes its colours from the page's style.

import { h } from "../lib/dom.js";
import { inWords } from "../lib/words.js";
import { clockOf } from "./words.js";

const HEIGHT = 82; // without the borders
const LEAST_TOP = 10; // tokens per second

export class Plot {
  #palette;
  #plot = null;
  #key = ""; // what the plot was made for
  #ids = [];
  #last = null;
  #parts = {};
  #onTheme = () => this.#again();

  constructor(palette) {
    this.#palette = palette;
    const parts = this.#parts;
    parts.top = h("span.room-plot-top");
    parts.pointed = h("span.room-plot-pointed");
    parts.canvas = h("div.room-plot-canvas", { "aria-hidden": "true" }, parts.pointed);
    this.element = h("div.room-plot", { role: "img" }, parts.top, parts.canvas);
    addEventListener("themechange", this.#onTheme);
  }

  close() {
    removeEventListener("themechange", this.#onTheme);
    this.#plot?.destroy();
  }

  /** `series` as Samples gives them; `from` and `to` are the ends of the axis. */
  async draw({ times, series }, from, to) {
    this.#last = [{ times, series }, from, to];
    const top = Math.max(LEAST_TOP, 1.15 * Math.max(0, ...totals(series)));
    const now = series.reduce((sum, { rates }) => sum + rates.at(-1), 0);
    this.element.setAttribute("aria-label", `Tokens per second: ${inWords(now)} now, ${inWords(Math.max(0, ...totals(series)))} at most`);
    this.#parts.top.textContent = `${inWords(top)}/s`;
    const uPlot = await library();
    const width = this.#parts.canvas.clientWidth;
    if (!uPlot || !width || this.#last[2] !== to) return; // closed, or a later drawing has started
    const ids = series.map(({ id }) => id);
    const key = ids.join("\n");
    if (!this.#plot || key !== this.#key) this.#make(uPlot, ids, key, width);
    if (this.#plot.width !== width) this.#plot.setSize({ width, height: HEIGHT });
    this.#plot.batch(() => {
      this.#plot.setData([times, ...stacked(series)], false);
      this.#plot.setScale("x", { min: from, max: to });
      this.#plot.setScale("y", { min: 0, max: top });
    });
  }

  #again() {
    this.#key = null;
    if (this.#last) requestAnimationFrame(() => this.draw(...this.#last)); // after the new colours are set
  }

  #make(uPlot, ids, key, width) {
    this.#plot?.destroy();
    this.#key = key;
    this.#ids = ids;
    const lines = ids.map((id) => {
      const colour = this.#palette.colour(id, this.element);
      return { label: id, stroke: colour, fill: `color-mix(in srgb, ${colour} 22%, transparent)`, width: 1.5, points: { show: false } };
    });
    const options = {
      width, height: HEIGHT, padding: [0, 0, 0, 0], legend: { show: false }, axes: [{ show: false }, { show: false }],
      cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
      scales: { x: { time: false, auto: false }, y: { auto: false } },
      series: [{}, ...lines],
      bands: ids.slice(1).map((_, number) => ({ series: [number + 1, number + 2] })), // each fills down only to the next one
      hooks: { setCursor: [(plot) => this.#point(plot.cursor.idx)] },
    };
    this.#plot = new uPlot(options, [[], ...ids.map(() => [])], this.#parts.canvas);
  }

  /** The values under the pointer. */
  #point(index) {
    const [{ times, series }] = this.#last;
    const time = index === null || index === undefined ? undefined : times[index];
    const values = time === undefined ? [] : series.filter(({ rates }) => rates[index]).map(({ id, rates }) => `${id} ${inWords(rates[index])}`);
    this.#parts.pointed.textContent = time === undefined ? "" : [clockOf(time), ...values].join(" · ");
  }
}

let loading = null;
/** Null while the server cannot be reached: the next drawing asks again. */
async function library() {
  try {
    loading ??= import("../vendor/uplot.js");
    return (await loading).default;
  } catch {
    loading = null;
    return null;
  }
}

const totals = (series) => (series.length ? series[0].rates.map((_, index) => series.reduce((sum, { rates }) => sum + rates[index], 0)) : []);

/** Each on top of the ones after it, so that the first is drawn first and largest. */
function stacked(series) {
  return series.map((_, number) => series[0].rates.map((__, index) => series.slice(number).reduce((sum, { rates }) => sum + rates[index], 0)));
}
