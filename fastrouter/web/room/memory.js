// How much of the models' memory is in use, and by which models.

import { h } from "../lib/dom.js";
import { bytesInWords, inWords } from "../lib/words.js";

export class MemoryBar {
  #models;
  #palette;
  #host = new Bar("Memory");
  #device = new Bar("GPU memory");

  constructor({ models, palette }) {
    this.#models = models;
    this.#palette = palette;
    this.element = h("section.room-memory", { "aria-label": "Memory of models" }, this.#host.element, this.#device.element);
  }

  draw() {
    const { usage } = this.#models;
    this.element.hidden = !usage;
    if (!usage) return;
    const { limits, machine, models } = usage;
    const places = models.filter((model) => model.status !== "unloaded").length;
    const count = limits.models_max ? `${inWords(places)} of ${inWords(limits.models_max)} ${limits.models_max === 1 ? "model" : "models"}` : `${inWords(places)} ${places === 1 ? "model" : "models"}`;
    this.#host.draw(this.#segments("host_bytes"), limits.host_bytes, machine.total_bytes, count);
    this.#host.drawFree(machine);
    const hasDevice = limits.device_bytes !== null || usage.used.device_bytes > 0;
    this.#device.element.hidden = !hasDevice;
    if (hasDevice) this.#device.draw(this.#segments("device_bytes"), limits.device_bytes, usage.used.device_bytes, "");
  }

  #segments(name) {
    const shown = this.#models.usage.models.filter((model) => model[name] > 0);
    const rest = this.#models.usage.used[name] - shown.reduce((sum, model) => sum + model[name], 0);
    const segments = shown.map((model) => ({ id: model.model, bytes: model[name], colour: this.#palette.of(model.model) }));
    return rest > 0 ? [...segments, { id: "others", bytes: rest, colour: null }] : segments;
  }
}

class Bar {
  #title;
  #parts = {};

  constructor(title) {
    this.#title = title;
    const parts = this.#parts;
    parts.used = h("strong");
    parts.limit = h("span");
    parts.count = h("span.room-figure-side");
    parts.bar = h("div.room-bar", { role: "img" });
    parts.free = h("p.room-free", { hidden: true });
    this.element = h("div.room-figure", {}, h("div.room-figure-head", {}, h("h3", {}, title), h("span.room-figure-value", {}, parts.used, " ", parts.limit), parts.count), parts.bar, parts.free);
  }

  /** Of the machine, including other programs. */
  drawFree({ available_bytes: free, total_bytes: whole }) {
    const { free: line } = this.#parts;
    line.hidden = !free;
    line.textContent = `${bytesInWords(free)} of this machine's ${bytesInWords(whole)} are free now`;
  }

  /** `limit` null: there is no limit, and the bar is as long as `whole`. */
  draw(segments, limit, whole, count) {
    const parts = this.#parts;
    const used = segments.reduce((sum, segment) => sum + segment.bytes, 0);
    const end = Math.max(limit ?? whole, used, 1);
    parts.used.textContent = bytesInWords(used) || "nothing";
    parts.limit.textContent = limit === null ? "used, no limit" : `of ${bytesInWords(limit)}`;
    parts.count.textContent = count;
    parts.bar.setAttribute("aria-label", [`${this.#title}: ${parts.used.textContent} ${parts.limit.textContent}`, ...segments.map(({ id, bytes }) => `${id} ${bytesInWords(bytes)}`)].join(", "));
    while (parts.bar.children.length > segments.length) parts.bar.lastChild.remove();
    while (parts.bar.children.length < segments.length) parts.bar.append(h("i"));
    segments.forEach(({ id, bytes, colour }, index) => {
      const segment = parts.bar.children[index];
      segment.dataset.colour = colour ?? "none";
      segment.title = `${id}: ${bytesInWords(bytes)}`;
      segment.style.width = `${(100 * bytes) / end}%`;
    });
  }
}
