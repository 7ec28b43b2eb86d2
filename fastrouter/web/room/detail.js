// What opens below a model: its worker's log as it comes, and its effective settings.
// Invariant: at most one is open in the whole room, so that at most one connection follows a log.

import { h, iconButton } from "../lib/dom.js";
import { LogView } from "./log.js";
import { showSettings } from "./settings.js";

let open = null;
let num_details = 0;

export class Detail {
  #id;
  #context;
  #log = null;
  #parts = {};

  constructor(id, context) {
    this.#id = id;
    this.#context = context;
    const parts = this.#parts;
    const name = `room-detail${(num_details += 1)}`;
    this.button = iconButton("down", `Log and settings of ${id}`, () => this.#toggle(), { class: "icon-button small room-unfold", "aria-expanded": "false", "aria-controls": name });
    parts.tabs = h("div.room-tabs", { role: "tablist", "aria-label": `About ${id}`, onkeydown: (event) => this.#key(event) },
      this.#tab(name, "log", "Log"), this.#tab(name, "settings", "Settings"));
    parts.panel = h("div.room-tab-panel", { role: "tabpanel", id: `${name}-panel`, tabindex: "-1" });
    this.element = h("div.room-detail", { id: name, hidden: true }, parts.tabs, parts.panel);
  }

  close() {
    if (open === this) open = null;
    this.#log?.close();
    this.#log = null;
    this.element.hidden = true;
    this.button.setAttribute("aria-expanded", "false");
  }

  #tab(name, key, label) {
    return h("button", { type: "button", role: "tab", id: `${name}-${key}`, "data-key": key, "aria-controls": `${name}-panel`, onclick: () => this.#show(key) }, label);
  }

  #toggle() {
    if (!this.element.hidden) {
      this.close();
      return;
    }
    open?.close();
    open = this;
    this.element.hidden = false;
    this.button.setAttribute("aria-expanded", "true");
    this.#show("log");
  }

  #show(key) {
    const { tabs, panel } = this.#parts;
    for (const tab of tabs.children) {
      const isChosen = tab.dataset.key === key;
      tab.setAttribute("aria-selected", String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
      if (isChosen) panel.setAttribute("aria-labelledby", tab.id);
    }
    this.#log?.close();
    this.#log = null;
    if (key === "log") {
      this.#log = new LogView(this.#id, this.#context.api);
      panel.replaceChildren(this.#log.element);
    } else {
      showSettings(panel, this.#id, this.#context.api);
    }
  }

  #key(event) {
    if (event.key !== "ArrowRight" && event.key !== "ArrowLeft") return;
    event.preventDefault();
    const other = [...this.#parts.tabs.children].find((tab) => tab.getAttribute("aria-selected") !== "true");
    this.#show(other.dataset.key);
    other.focus();
  }
}
