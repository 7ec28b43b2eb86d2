// The models in memory, one card each: state, slots, queue, speed, memory, the time until it leaves; and the buttons for it.
// Invariant: a card is made once and then changed, so that focus and an open log stay where they are.

import { showBadges } from "../lib/badges.js";
import { notify } from "../lib/dialogs.js";
import { h, iconButton } from "../lib/dom.js";
import { percentOf, stateOf } from "../models.js";
import { bytesInWords, inWords, stateInWords, traitsOf } from "../lib/words.js";
import { Detail } from "./detail.js";
import { durationInWords, parkedInWords } from "./words.js";

const IN_MEMORY = new Set(["loading", "loaded", "sleeping"]);
const MAX_SLOT_BARS = 16;
const WAITING = { draining: "finishing, then leaving", stopping: "finishing, then leaving", unloaded: "waiting for a place", dying: "leaving" };

export class Cards {
  #context;
  #cards = new Map();
  #list = h("ul.room-cards");
  #none = h("p.room-none", {}, "No model is in memory. The first request for a model loads it.");

  constructor(context) {
    this.#context = context;
    this.element = h("section.room-residents", { "aria-label": "In memory" }, h("h3", {}, "In memory"), this.#none, this.#list);
  }

  draw() {
    const { models } = this.#context;
    const figures = new Map((models.usage?.models ?? []).map((each) => [each.model, each]));
    const shown = models.list().filter((model) => (IN_MEMORY.has(model.status.value) && !model.status.base) || figures.get(model.id)?.waiting);
    const ids = new Set(shown.map((model) => model.id));
    for (const [id, card] of this.#cards) {
      if (ids.has(id)) continue;
      card.close();
      this.#cards.delete(id);
    }
    for (const model of shown) {
      if (!this.#cards.has(model.id)) {
        const card = new Card(model.id, this.#context);
        this.#cards.set(model.id, card);
        this.#list.append(card.element);
      }
      this.#cards.get(model.id).draw(model, figures.get(model.id));
    }
    this.#none.hidden = shown.length > 0;
  }

  close() {
    for (const card of this.#cards.values()) card.close();
  }
}

class Card {
  #id;
  #models;
  #detail;
  #parts = {};
  #isPinned = false;

  constructor(id, context) {
    this.#id = id;
    this.#models = context.models;
    const parts = this.#parts;
    parts.chip = h("span.chip");
    parts.traits = h("p.room-traits");
    parts.badges = h("p");
    parts.progress = h("div.progress", { role: "progressbar", "aria-label": `Loading ${id}`, "aria-valuemin": "0", "aria-valuemax": "100" }, h("i"));
    parts.slots = h("span.room-slots", { "aria-hidden": "true" });
    parts.work = h("span");
    parts.rate = h("span.room-rate");
    parts.until = h("p.room-until");
    parts.pin = iconButton("pin", "", () => this.#do(this.#models.pin(id, !this.#isPinned)), { class: "icon-button small" });
    parts.unload = iconButton("eject", `Unload ${id}`, () => this.#do(this.#models.unload(id)), { class: "icon-button small" });
    this.#detail = new Detail(id, context);
    this.element = h("li.room-card", { "data-model": id, "data-colour": String(context.palette.of(id)) },
      h("div.room-card-head", {}, h("h4", {}, id), parts.chip, h("span.push"), parts.pin, parts.unload, this.#detail.button),
      parts.traits, parts.badges, parts.progress, h("div.room-work", {}, parts.slots, parts.work, parts.rate), parts.until, this.#detail.element);
  }

  close() {
    this.#detail.close();
    this.element.remove();
  }

  draw(model, figures) {
    const parts = this.#parts;
    const state = stateOf(model);
    const percent = percentOf(model);
    this.#isPinned = figures?.pinned ?? model.pinned;
    parts.chip.dataset.state = state;
    parts.chip.textContent = WAITING[figures?.state] ?? stateInWords(state, percent);
    parts.unload.hidden = !IN_MEMORY.has(model.status.value);
    const memory = figures?.host_bytes ? `${bytesInWords(figures.host_bytes + figures.device_bytes)} of memory` : "";
    parts.traits.textContent = [memory, ...traitsOf(model).filter((trait) => trait !== bytesInWords(model.meta?.size)), parkedInWords(model)].filter(Boolean).join(" · ");
    showBadges(parts.badges, model);
    parts.progress.hidden = state !== "loading";
    parts.progress.firstChild.style.transform = `scaleX(${(percent ?? 0) / 100})`;
    parts.progress.setAttribute("aria-valuenow", String(percent ?? 0));
    const label = this.#isPinned ? `Unpin ${this.#id}: it may be evicted again` : `Pin ${this.#id}: it is never evicted`;
    parts.pin.setAttribute("aria-label", label);
    parts.pin.setAttribute("aria-pressed", String(this.#isPinned));
    this.#drawWork(state, figures);
    parts.until.textContent = this.#until(state, figures);
    parts.until.hidden = !parts.until.textContent;
  }

  #drawWork(state, figures) {
    const { slots, work, rate } = this.#parts;
    work.parentElement.hidden = !figures || (state !== "loaded" && !figures.waiting);
    if (!figures) return;
    const { num_slots, slots_used, running, waiting, tokens_per_s } = figures;
    const bars = Math.min(num_slots, MAX_SLOT_BARS);
    slots.hidden = !bars;
    while (slots.children.length > bars) slots.lastChild.remove();
    while (slots.children.length < bars) slots.append(h("i"));
    [...slots.children].forEach((bar, index) => bar.toggleAttribute("data-used", index < Math.ceil((slots_used * bars) / (num_slots || 1))));
    const said = [num_slots ? `${slots_used} of ${num_slots} slots` : "", running > slots_used ? `${running} requests` : "", waiting ? `${waiting} waiting` : ""];
    work.textContent = said.filter(Boolean).join(" · ");
    rate.replaceChildren(...(tokens_per_s ? [h("strong", {}, inWords(tokens_per_s)), " tokens/s"] : []));
  }

  #until(state, figures) {
    if (state === "sleeping") return "Its memory is free; the next request wakes it.";
    if (!figures || state !== "loaded") return "";
    if (figures.pinned) return "Pinned: it is never evicted.";
    if (figures.expires_in_s !== null) return `Leaves in ${durationInWords(Math.max(1, figures.expires_in_s))}, unless a request comes.`;
    return figures.idle_s !== null && figures.idle_s >= 5 ? `Idle for ${durationInWords(figures.idle_s)}.` : "";
  }

  #do(promise) {
    promise.catch((error) => notify(error.message));
  }
}
