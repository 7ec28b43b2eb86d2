// The models that are not in memory, and what a switch to each would cost: seconds, bytes, which models would have to leave.
// Invariant: the cost of a switch is asked only for visible rows, one after the other, and only after a change.

import { showBadges } from "../lib/badges.js";
import { confirmAction, notify } from "../lib/dialogs.js";
import { h, iconButton } from "../lib/dom.js";
import { kindOf } from "../failures.js";
import { stateOf } from "../models.js";
import { bytesInWords, inWords } from "../lib/words.js";
import { Detail } from "./detail.js";
import { durationInWords, leavingInWords, parkedInWords } from "./words.js";

const NUM_SHOWN = 8;
const NUM_MORE = 50;
const SETTLE_MS = 300; // a switch consists of several changes

export class Shelf {
  #context;
  #rows = new Map();
  #plans = new Map();
  #numShown = NUM_SHOWN;
  #residents = "";
  #timer = 0;
  #search = h("input.input.room-search", { type: "search", placeholder: "Find a model", "aria-label": "Find a model on disk", autocomplete: "off", spellcheck: "false", oninput: () => this.draw() });
  #list = h("ul.room-shelf");
  #more = h("button.button.small", { type: "button", onclick: () => this.#showMore() });

  constructor(context) {
    this.#context = context;
    this.element = h("section.room-others", { "aria-label": "On disk" }, h("h3", {}, "On disk"), this.#search, this.#list, this.#more);
  }

  draw() {
    const { models } = this.#context;
    const resting = models.list().filter((model) => ["unloaded", "failed"].includes(stateOf(model)) && !model.status.base);
    this.#search.hidden = resting.length <= NUM_SHOWN;
    const words = this.#search.hidden ? [] : this.#search.value.toLowerCase().split(/\s+/);
    const found = resting.filter((model) => words.every((word) => model.id.toLowerCase().includes(word)));
    const shown = found.slice(0, this.#numShown);
    const ids = new Set(shown.map((model) => model.id));
    for (const [id, row] of this.#rows) {
      if (ids.has(id)) continue;
      row.close();
      this.#rows.delete(id);
    }
    shown.forEach((model, index) => {
      if (!this.#rows.has(model.id)) this.#rows.set(model.id, new Row(model.id, this.#context));
      const row = this.#rows.get(model.id);
      if (this.#list.children[index] !== row.element) this.#list.insertBefore(row.element, this.#list.children[index] ?? null);
      row.draw(model, this.#plans.get(model.id));
    });
    this.element.hidden = !resting.length;
    this.#more.hidden = found.length <= shown.length;
    this.#more.textContent = `Show ${inWords(Math.min(NUM_MORE, found.length - shown.length))} more of ${inWords(found.length)}`;
    this.#askSoon(shown);
  }

  close() {
    clearTimeout(this.#timer);
    for (const row of this.#rows.values()) row.close();
  }

  #showMore() {
    this.#numShown += NUM_MORE;
    this.draw();
  }

  /** The cost of a switch depends on which models are in memory, busy or pinned. */
  #askSoon(shown) {
    const { models } = this.#context;
    const figures = models.usage?.models ?? [];
    const residents = [...figures.map((each) => `${each.model} ${each.state} ${each.pinned} ${each.running > 0}`), ...shown.map((model) => model.id)].join("\n");
    if (residents === this.#residents) return;
    this.#residents = residents;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(shown.map((model) => model.id), residents), SETTLE_MS);
  }

  async #ask(ids, residents) {
    for (const id of ids) {
      if (residents !== this.#residents) return;
      try {
        this.#plans.set(id, await this.#context.api.post("models/plan", { model: id }));
      } catch {
        this.#plans.delete(id); // it is gone, or cannot be loaded: its row says so
      }
      const model = this.#context.models.get(id);
      if (model) this.#rows.get(id)?.draw(model, this.#plans.get(id));
    }
  }
}

class Row {
  #id;
  #context;
  #detail;
  #parts = {};

  constructor(id, context) {
    this.#id = id;
    this.#context = context;
    const { models } = context;
    const parts = this.#parts;
    parts.dot = h("span.dot");
    parts.cost = h("p.room-traits");
    parts.badges = h("p");
    parts.cause = h("p.room-error", { hidden: true });
    parts.words = h("details.room-words", { hidden: true }, h("summary", {}, "Output of the loader"), h("p"));
    parts.load = iconButton("play", "", () => models.load(id).catch((error) => notify(error.message)), { class: "icon-button small" });
    parts.remove = iconButton("trash", `Delete ${id}`, () => this.#remove(), { class: "icon-button small" });
    this.#detail = new Detail(id, context);
    this.element = h("li.room-row", { "data-model": id },
      h("div.room-card-head", {}, parts.dot, h("h4", {}, id), h("span.push"), parts.load, parts.remove, this.#detail.button), parts.cost, parts.badges, parts.cause, parts.words, this.#detail.element);
  }

  close() {
    this.#detail.close();
    this.element.remove();
  }

  draw(model, plan) {
    const parts = this.#parts;
    const state = stateOf(model);
    parts.dot.dataset.state = state;
    parts.cost.textContent = state === "failed" ? "" : costInWords(model, plan);
    parts.cost.hidden = !parts.cost.textContent;
    showBadges(parts.badges, model);
    this.#drawCause(model.status.error);
    const label = state === "failed" ? `Try to load ${this.#id} again` : `Load ${this.#id}`;
    parts.load.setAttribute("aria-label", label);
    parts.remove.hidden = !model.can_remove;
  }

  #drawCause(error) {
    const { cause, words } = this.#parts;
    const kind = kindOf(error);
    cause.hidden = !error;
    cause.textContent = kind?.text ?? error ?? "";
    words.hidden = !kind;
    words.lastChild.textContent = error ?? "";
  }

  async #remove() {
    const { api, models } = this.#context;
    const size = bytesInWords(models.get(this.#id)?.meta?.size);
    const text = `${size ? `Its ${size} are` : "It is"} removed permanently from the cache on disk. It can be downloaded again.`;
    if (!(await confirmAction(`Delete ${this.#id}?`, text, "Delete"))) return;
    try {
      await api.delete(`models?model=${encodeURIComponent(this.#id)}`);
    } catch (error) {
      notify(error.message);
    }
  }
}

function costInWords(model, plan) {
  const size = bytesInWords(model.meta?.size);
  const parked = parkedInWords(model);
  if (!plan) return [size, parked].filter(Boolean).join(" · ");
  const about = plan.need.is_measured ? "" : "about ";
  const seconds = plan.load_s ? `ready in ${about}${durationInWords(plan.load_s)}` : "";
  const memory = plan.need.host_bytes + plan.need.device_bytes;
  return [seconds, memory ? `takes ${about}${bytesInWords(memory)}` : size, parked, leavingInWords(plan)].filter(Boolean).join(" · ");
}
