// The drop-down list of models: a searchable combobox over a grid of rows, each with its state and its buttons.
// Invariant: it shows what `models` has; the active row stays the same model while rows come and go.

import { badges } from "./lib/badges.js";
import { h, icon, iconButton } from "./lib/dom.js";
import { notify } from "./lib/dialogs.js";
import { causeInWords } from "./failures.js";
import { hasNoTemplate, percentOf, stateOf } from "./models.js";
import { stateInWords, traitsOf } from "./lib/words.js";

const GROUPS = [
  ["In memory", (model) => ["loaded", "loading", "sleeping"].includes(stateOf(model))],
  ["Not loaded", (model) => ["unloaded", "downloading"].includes(stateOf(model))],
  ["Failed", (model) => stateOf(model) === "failed"],
];
const SAID_BY_GROUP = new Set(["loaded", "unloaded", "failed"]);
const MAX_ROWS = 200;
let num_pickers = 0;

export class Picker {
  #models;
  #onPick;
  #isFit;
  #onClose;
  #current = null;
  #active = null; // id of the active row
  #id = `picker${(num_pickers += 1)}`;
  #parts = {};
  #frame = 0;

  /** `onPick(id)`; `isFit(model)`: may be chosen; `label`: what it is for; `onClose()` however it was closed. */
  constructor(models, { label, onPick, isFit = () => true, onClose = () => {} }) {
    this.#onClose = onClose;
    this.#models = models;
    this.#onPick = onPick;
    this.#isFit = isFit;
    const parts = this.#parts;
    const listId = `${this.#id}-list`;
    parts.button = h("button.picker-button", { type: "button", "aria-haspopup": "dialog", "aria-expanded": "false", onclick: () => this.toggle() });
    parts.search = h("input", { type: "text", role: "combobox", placeholder: "Find a model", "aria-label": "Find a model", "aria-expanded": "true", "aria-haspopup": "grid", "aria-controls": listId, "aria-autocomplete": "list", autocomplete: "off", spellcheck: "false", oninput: () => this.#searched() });
    parts.list = h("div.picker-list", { role: "grid", id: listId, "aria-label": "Models" });
    parts.none = h("p.picker-none", { hidden: true });
    parts.hint = h("p.picker-hint", {}, h("span", {}, h("kbd", {}, "↑↓"), " choose"), h("span", {}, h("kbd", {}, "Enter"), " use"), h("span", {}, h("kbd", {}, "Tab"), " load, pin"));
    parts.panel = h("div.picker-panel", { role: "dialog", "aria-label": label, hidden: true }, h("label.picker-search", {}, icon("search"), parts.search), parts.list, parts.none, parts.hint);
    this.element = h("div.picker", { "data-label": label }, parts.button, parts.panel);
    parts.panel.addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("pointerdown", (event) => this.isOpen && !this.element.contains(event.target) && this.close());
    this.element.addEventListener("focusout", ({ relatedTarget }) => relatedTarget && !this.element.contains(relatedTarget) && this.close());
    models.addEventListener("change", () => this.#soon());
  }

  /** The model on the button. */
  show(model) {
    this.#current = model;
    const { button } = this.#parts;
    const state = model ? stateOf(model) : null;
    button.setAttribute("aria-label", model ? `Model: ${model.id}, ${stateInWords(state, percentOf(model))}` : "Pick a model");
    button.replaceChildren(
      ...(model ? [h("span.dot", { "data-state": state })] : []),
      h("span.picker-name", {}, model?.id ?? "Pick a model"),
      ...(model && percentOf(model) !== null ? [h("span.picker-percent", {}, `${percentOf(model)}%`)] : []),
      icon("down"));
  }

  get isOpen() {
    return !this.#parts.panel.hidden;
  }

  toggle() {
    if (this.isOpen) this.close();
    else this.open();
  }

  open() {
    const { panel, button, search } = this.#parts;
    search.value = "";
    this.#active = this.#current?.id ?? null;
    panel.hidden = false;
    button.setAttribute("aria-expanded", "true");
    this.#draw();
    search.focus();
    for (const model of this.#models.list()) if (["loaded", "loading", "sleeping"].includes(model.status.value)) this.#models.look(model.id).catch(() => {}); // pinned?
  }

  close() {
    if (!this.isOpen) return;
    const hadFocus = this.#parts.panel.contains(document.activeElement);
    this.#parts.panel.hidden = true;
    this.#parts.button.setAttribute("aria-expanded", "false");
    if (hadFocus) this.#parts.button.focus();
    this.#onClose();
  }

  // ------------------------------------------------------------ rows

  #soon() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      if (this.#current) this.show(this.#models.get(this.#current.id) ?? null);
      if (this.isOpen) this.#draw();
    });
  }

  #found() {
    const words = this.#parts.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const isFound = (model) => {
      const text = [model.id, ...model.aliases, ...model.tags, ...(model.capabilities ?? []), model.details?.family ?? "", ...traitsOf(model), stateInWords(stateOf(model))].join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    };
    return this.#models.list().filter(isFound);
  }

  #draw() {
    const { list, none, search } = this.#parts;
    const found = this.#found();
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.act : null;
    const groups = GROUPS.map(([name, isIn]) => [name, found.filter(isIn).slice(0, MAX_ROWS)]).filter(([, models]) => models.length);
    const fit = groups.flatMap(([, models]) => models).filter(this.#isFit);
    if (!fit.some((model) => model.id === this.#active)) this.#active = fit[0]?.id ?? null;
    list.replaceChildren(...groups.map(([name, models]) =>
      h("div.picker-group", { role: "rowgroup", "aria-label": name }, h("div.picker-group-name", { "aria-hidden": "true" }, name), models.map((model) => this.#row(model)))));
    none.hidden = found.length > 0;
    list.hidden = !found.length;
    none.textContent = this.#models.list().length ? "No model has this name." : this.#models.isKnown ? "There are no models yet. “Models and memory” can download one." : "Looking for models …";
    const row = list.querySelector('[aria-selected="true"]');
    if (row) search.setAttribute("aria-activedescendant", row.id);
    else search.removeAttribute("aria-activedescendant");
    row?.scrollIntoView({ block: "nearest" });
    if (focused) row?.querySelector(`[data-act="${focused}"]`)?.focus();
  }

  #row(model) {
    const state = stateOf(model);
    const isActive = model.id === this.#active;
    const isFit = this.#isFit(model);
    const name = h("div.picker-row-name", {}, h("span.dot", { "data-state": state }), h("strong", {}, model.id), model.pinned && icon("pin"), model.tags.map((tag) => h("span.chip", {}, tag)), badges(model));
    const detail = h("div.picker-row-detail", {}, [...traitsOf(model), model.status.base && `variant of ${model.status.base}`, SAID_BY_GROUP.has(state) ? null : stateInWords(state, percentOf(model))].filter(Boolean).join(" · "));
    const cause = state === "failed" && model.status.error ? h("div.picker-row-cause", { "data-tip": model.status.error }, causeInWords(model.status.error)) : null;
    const cell = h("div.picker-cell", { role: "gridcell", onclick: () => isFit && this.#pick(model.id) }, name, detail, cause, noteOf(model, isFit));
    const acts = h("div.picker-acts", { role: "gridcell" }, this.#buttons(model, state, isActive));
    return h("div.picker-row", { role: "row", id: `${this.#id}-${model.id}`, "aria-selected": String(isActive), "aria-disabled": !isFit && "true", "data-current": model.id === this.#current?.id, "data-model": model.id }, cell, acts);
  }

  #buttons(model, state, isActive) {
    const tabindex = isActive ? 0 : -1;
    const isUp = ["loaded", "loading", "sleeping"].includes(state);
    const button = (act, name, label, run, more = {}) =>
      iconButton(name, label, () => run().catch((error) => notify(error.message)), { class: "icon-button small", tabindex, "data-act": act, ...more });
    if (state === "downloading") return [button("load", "close", `Stop the download of ${model.id}`, () => this.#models.unload(model.id))];
    return [
      isUp && button("pin", "pin", model.pinned ? `Unpin ${model.id}` : `Pin ${model.id}: it is never evicted`, () => this.#models.pin(model.id, !model.pinned), { "aria-pressed": String(model.pinned) }),
      isUp
        ? button("load", "eject", `Unload ${model.id}`, () => this.#models.unload(model.id))
        : button("load", "play", state === "failed" ? `Try to load ${model.id} again` : `Load ${model.id}`, () => this.#models.load(model.id)),
    ];
  }

  // ------------------------------------------------------------ keys

  #searched() {
    this.#active = null;
    this.#draw();
  }

  #key(event) {
    if (event.isComposing) return;
    if (event.key === "Escape") {
      event.stopPropagation();
      this.close();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      this.#move(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "Enter" && event.target === this.#parts.search) {
      event.preventDefault();
      if (this.#active) this.#pick(this.#active);
    }
  }

  #move(by) {
    const ids = [...this.#parts.list.querySelectorAll('[role="row"]:not([aria-disabled])')].map((row) => row.dataset.model);
    if (!ids.length) return;
    const at = ids.indexOf(this.#active);
    this.#active = ids[(at + by + ids.length) % ids.length];
    this.#draw();
  }

  #pick(id) {
    this.#onPick(id);
    this.close();
  }
}

/** What it was not made for. */
function noteOf(model, isFit) {
  if (!isFit) return h("div.picker-row-detail", {}, `cannot chat: it is for ${model.capabilities.join(", ")}`);
  return hasNoTemplate(model) ? h("div.picker-row-detail", {}, "no chat template") : null;
}
