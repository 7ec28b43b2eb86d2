// The list of conversations: search, rename, delete, export, import. Does not know how messages look.

import { askText, confirmAction, notify, openDialog } from "../lib/dialogs.js";
import { h, icon, iconButton } from "../lib/dom.js";
import { isMatch } from "./conversation.js";
import { fileNameOf, fromJson, saveFile, toJson, toMarkdown } from "./import_export.js";

const DAY_MS = 86_400_000;

export class Sidebar {
  #chat;
  #store;
  #list = h("nav.conversations", { "aria-label": "Conversations" });
  #search;
  #file;
  #onOpen;
  #shown = ""; // the data of the list that is shown

  /** `onOpen()` is called after another conversation was chosen. */
  constructor(element, chat, store, onOpen) {
    this.#chat = chat;
    this.#store = store;
    this.#onOpen = onOpen;
    this.#search = h("input.input", { type: "search", placeholder: "Search", "aria-label": "Search conversations", oninput: () => this.show() });
    this.#file = h("input", { type: "file", accept: ".json,application/json", hidden: true, "aria-label": "File to import", onchange: () => this.#import() });
    element.querySelector(".sidebar-head").append(iconButton("plus", "New chat (Ctrl+Shift+O)", () => this.#startNew()));
    element.append(
      h("div.sidebar-search", {}, this.#search),
      this.#list,
      h("div.sidebar-foot", {},
        h("button.quiet", { type: "button", onclick: () => this.#file.click() }, icon("upload"), "Import"),
        h("button.quiet", { type: "button", onclick: () => this.#exportAll() }, icon("download"), "Export all"),
        this.#file));
    store.addEventListener("change", () => this.show());
    chat.addEventListener("opened", () => this.show());
    this.show();
  }

  #startNew() {
    this.#chat.startNew();
    this.#onOpen();
  }

  show() {
    const words = this.#search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.#store.list().filter((conversation) => isMatch(conversation, words));
    const shown = JSON.stringify([this.#chat.conversation.id, words.length, found.map(({ id, title, updated }) => [id, title, dayOf(updated)])]);
    if (shown === this.#shown) return; // an answer is stored every few seconds
    this.#shown = shown;
    const { activeElement: focused } = document;
    const focusedId = this.#list.contains(focused) ? focused.closest("li")?.dataset.id : null;
    const isMenu = focused?.matches(".icon-button") ?? false;
    const groups = Map.groupBy ? Map.groupBy(found, (one) => dayOf(one.updated)) : new Map([["", found]]);
    this.#list.replaceChildren(...[...groups].map(([day, group]) => h("section", {}, h("h2.day", {}, day), h("ul", {}, group.map((conversation) => this.#row(conversation))))));
    if (focusedId) this.#focus(focusedId, isMenu);
    if (!found.length) this.#list.append(h("p.none", {}, words.length ? "Nothing found" : "Conversations stay in this browser."));
  }

  #focus(id, isMenu) {
    const row = this.#list.querySelector(`[data-id="${CSS.escape(id)}"]`) ?? this.#list.querySelector("li");
    (row?.querySelector(isMenu ? ".icon-button" : ".conversation") ?? this.#search).focus();
  }

  #row(conversation) {
    const isCurrent = conversation.id === this.#chat.conversation.id;
    const open = () => {
      this.#chat.open(conversation);
      this.#onOpen();
    };
    const title = conversation.title || "Untitled";
    return h("li", { "data-current": isCurrent, "data-id": conversation.id },
      h("button.conversation", { type: "button", "aria-current": isCurrent && "page", onclick: open }, title),
      iconButton("more", `Rename, export or delete “${title}”`, () => this.#menu(conversation), { class: "icon-button small" }));
  }

  async #menu(conversation) {
    const name = fileNameOf(conversation.title);
    const acts = {
      rename: () => this.#rename(conversation),
      markdown: () => saveFile(`${name}.md`, "text/markdown", toMarkdown(conversation)),
      json: async () => saveFile(`${name}.json`, "application/json", await toJson([conversation], this.#store.media)),
      delete: () => this.#remove(conversation),
    };
    const choices = [["rename", "edit", "Rename"], ["markdown", "download", "Export as Markdown"], ["json", "download", "Export as JSON"], ["delete", "trash", "Delete"]];
    const chosen = await openDialog(conversation.title || "Untitled", (close) =>
      h("div.inside.menu", {}, h("h2", {}, conversation.title || "Untitled"), choices.map(([act, name_of_icon, label]) => h("button.quiet", { type: "button", "data-act": act, onclick: () => close(act) }, icon(name_of_icon), label))));
    if (chosen) await acts[chosen]();
  }

  async #rename(conversation) {
    const title = await askText("Rename", "Title", conversation.title);
    if (title) await this.#chat.rename(conversation, title);
  }

  async #remove(conversation) {
    const isSure = await confirmAction("Delete this conversation?", `“${conversation.title || "Untitled"}” will be removed from this browser.`, "Delete");
    if (isSure) await this.#chat.remove(conversation);
  }

  async #exportAll() {
    saveFile(`fastrouter-${new Date().toISOString().slice(0, 10)}.json`, "application/json", await toJson(this.#store.list(), this.#store.media));
  }

  async #import() {
    const [file] = this.#file.files;
    this.#file.value = "";
    if (!file) return;
    try {
      const conversations = fromJson(await file.text(), this.#store.media);
      for (const conversation of conversations) await this.#store.save(conversation);
      notify(`${conversations.length} ${conversations.length === 1 ? "conversation" : "conversations"} imported`);
    } catch (error) {
      notify(error.message);
    }
  }
}

function dayOf(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "Today";
  if (time >= midnight - DAY_MS) return "Yesterday";
  if (time >= midnight - 7 * DAY_MS) return "This week";
  return new Date(time).toLocaleDateString("en", { month: "long", year: "numeric" });
}
