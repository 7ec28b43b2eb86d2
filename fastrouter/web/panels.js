// The columns beside the chat: shown, hidden, remembered. In a narrow window they are drawers over the chat.
// Invariant: at most one drawer is open; Escape or a click outside closes it; while it is open, the rest of the page cannot be used.

import { h } from "./lib/dom.js";

const NARROW = matchMedia("(max-width: 760px)");
const MEDIUM = matchMedia("(max-width: 1100px)");

export class Panel {
  #name;
  #drawer;
  #onOpen;
  #scrim;

  /** `drawer`: a media query; when it matches, the column covers the chat. */
  constructor(element, button, { name, isOpen, drawer, onOpen = () => {} }) {
    this.element = element;
    this.button = button;
    this.#name = `fastrouter.${name}`;
    this.#drawer = drawer;
    this.#onOpen = onOpen;
    button.setAttribute("aria-controls", element.id);
    button.addEventListener("click", () => this.toggle());
    this.#scrim = h("button.scrim", { type: "button", tabindex: -1, "aria-label": "Close", onclick: () => this.close() });
    element.before(this.#scrim);
    element.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.isDrawer) {
        event.stopPropagation();
        this.close();
      }
    });
    this.#show(!this.isDrawer && (localStorage.getItem(this.#name) ?? String(isOpen)) === "true");
    drawer.addEventListener("change", () => this.isDrawer && this.#show(false));
  }

  get isDrawer() {
    return this.#drawer.matches;
  }

  get isOpen() {
    return !this.element.hidden;
  }

  toggle(isOpen = !this.isOpen) {
    if (!this.isDrawer) localStorage.setItem(this.#name, String(isOpen));
    this.#show(isOpen);
    if (this.isDrawer && isOpen) this.element.querySelector("button, input, [tabindex]")?.focus();
    if (!isOpen && this.isDrawer) this.button.focus();
  }

  close() {
    if (this.isOpen) this.toggle(false);
  }

  #show(isOpen) {
    this.element.hidden = !isOpen;
    this.button.setAttribute("aria-expanded", String(isOpen));
    this.#scrim.classList.toggle("is-shown", isOpen && this.isDrawer);
    for (const other of this.element.parentElement.children) if (other !== this.element && other !== this.#scrim) other.inert = isOpen && this.isDrawer;
    if (isOpen) this.#onOpen();
  }
}

export const drawers = { sidebar: NARROW, room: MEDIUM };
