// What an empty conversation shows: the models to begin with. Knows no request.

import { badges } from "../lib/badges.js";
import { h, icon } from "../lib/dom.js";
import { causeInWords } from "../failures.js";
import { hasNoTemplate, percentOf, stateOf } from "../models.js";
import { stateInWords, traitsOf } from "../lib/words.js";
import { canChat } from "./chat.js";

const MAX_CARDS = 6;
const ORDER = ["loaded", "loading", "sleeping", "unloaded", "downloading", "failed"];

export class Welcome {
  #models;
  #chat;
  #onPick;
  #cards = h("div.cards");
  #text = h("p");
  #openRoom;
  #openAll;
  #askAgain;
  element;

  /** `onPick(id)`; `openAll()` shows the models without a card; `openRoom()` is for an empty list; `askAgain()` for the key. */
  constructor(models, chat, { onPick, openAll, openRoom, askAgain }) {
    this.#askAgain = askAgain;
    this.#openAll = openAll;
    this.#models = models;
    this.#chat = chat;
    this.#onPick = onPick;
    this.#openRoom = openRoom;
    this.element = h("div.welcome", {}, h("h1", {}, "Ask any model"), this.#text, this.#cards,
      h("button.quiet.welcome-room", { type: "button", onclick: this.#openRoom }, icon("gauge"), "Load, unload or download models"));
    models.addEventListener("change", () => this.show());
    chat.addEventListener("changed", () => this.show());
  }

  show() {
    const fit = this.#models.list().filter(canChat);
    const rank = (model) => (model.id === this.#chat.model?.id ? -1 : ORDER.indexOf(stateOf(model)) + hasNoTemplate(model) / 2);
    const cards = fit.sort((a, b) => rank(a) - rank(b)).slice(0, MAX_CARDS);
    const focused = this.#cards.contains(document.activeElement) ? document.activeElement.dataset.model : null;
    this.#cards.replaceChildren(...cards.map((model) => this.#card(model)));
    if (fit.length > MAX_CARDS) this.#cards.append(h("button.card.all", { type: "button", onclick: this.#openAll }, `All ${fit.length} models`));
    this.#cards.querySelector(`[data-model="${CSS.escape(focused ?? "")}"]`)?.focus();
    if (!this.#models.isKnown && this.#models.isRefused) {
      this.#text.textContent = "The router needs an API key to list its models.";
      this.#cards.replaceChildren(h("button.button.primary", { type: "button", onclick: this.#askAgain }, "Enter the key"));
      return;
    }
    this.#text.textContent = !this.#models.isKnown ? "Looking for models …" : fit.length ? "A model that is not in memory is loaded when you ask it." : "There are no models here yet.";
    if (this.#models.isKnown && !fit.length) this.#cards.replaceChildren(h("button.button.primary", { type: "button", onclick: this.#openRoom }, "Download one"));
  }

  #card(model) {
    const state = stateOf(model);
    const isCurrent = model.id === this.#chat.model?.id;
    return h("button.card", { type: "button", "aria-pressed": String(isCurrent), "data-model": model.id, onclick: () => this.#onPick(model.id) },
      h("strong", {}, h("span.dot", { "data-state": state }), h("span.card-name", {}, model.id)),
      h("span.card-detail", {}, (state === "failed" && causeInWords(model.status.error)) || traitsOf(model).slice(0, 3).join(" · ") || "\u00a0"),
      h("span", {}, [stateInWords(state, percentOf(model)), hasNoTemplate(model) && "no chat template"].filter(Boolean).join(" · ")),
      badges(model));
  }
}
