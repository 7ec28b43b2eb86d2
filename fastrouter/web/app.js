// Puts the page together: it connects the parts, and does nothing else.

import { api } from "./lib/api.js";
import { PasteLimit } from "./chat/attachments.js";
import { Chat, canChat } from "./chat/chat.js";
import { Composer } from "./chat/composer.js";
import { costOf } from "./chat/media_costs.js";
import { Naming } from "./chat/naming.js";
import { ServerTools } from "./chat/server_tools.js";
import { editSettings, SAMPLING_NAMES } from "./chat/settings.js";
import { Sidebar } from "./chat/sidebar.js";
import { Store } from "./chat/store.js";
import { Thread } from "./chat/thread.js";
import { Welcome } from "./chat/welcome.js";
import { announce, askForKey, notify, openDialog } from "./lib/dialogs.js";
import { h, icon, iconButton, namedButton } from "./lib/dom.js";
import { fileOf, Models, stateOf } from "./models.js";
import { drawers, Panel } from "./panels.js";
import { Picker } from "./picker.js";
import { Defaults } from "./chat/defaults.js";
import { listenToKeys, showHelp } from "./shortcuts.js";
import { showTips } from "./tips.js";
import { stateInWords } from "./lib/words.js";

const HIDDEN_MS = 60_000;
const HAS_KEYBOARD = matchMedia("(hover: hover)"); // on other devices a focused field brings up a keyboard over half of the page

const at = (id) => document.getElementById(id);

api.askForKey = askForKey;
const models = new Models(api);
const store = new Store();
const naming = new Naming(api, models);
const pastes = new PasteLimit();
const chat = new Chat(api, store, models, naming);
const serverTools = new ServerTools(api, chat);
const defaults = new Defaults(api);

// ---------------------------------------------------------------- the bar

const picker = new Picker(models, { label: "Models", isFit: canChat, onPick: (id) => pick(id, false) });
const second = new Picker(models, { label: "Second model", isFit: canChat, onPick: (id) => pick(id, true) });
const offline = h("span.chip.offline", { "data-state": "failed", hidden: true }, "not connected");
const buttons = {
  sidebar: iconButton("menu", "Conversations ([)"),
  compare: namedButton("columns", "Side by side", "Two models side by side", () => chat.setComparing(!chat.second)),
  settings: namedButton("sliders", "Settings", "Settings of this conversation", () => openSettings()),
  theme: iconButton("moon", "Light or dark", () => window.toggleTheme()),
  themeBelow: iconButton("moon", "Light or dark", () => window.toggleTheme(), { class: "icon-button only-narrow" }), // when the bar has no room
  help: iconButton("help", "Keyboard (?)", showHelp),
  room: namedButton("gauge", "Models and memory", "Models and memory", null, { "data-tip": "What is loaded, memory, downloads (])" }),
  roomBelow: h("button.quiet.only-narrow", { type: "button", onclick: () => openRoomFromDrawer() }, icon("gauge"), "Models and memory"), // as above
};
at("topbar").append(
  buttons.sidebar, picker.element, h("span.versus", {}, "and"), second.element, offline, h("span.push"), buttons.compare, buttons.settings, buttons.help, buttons.theme, buttons.room);

async function openSettings() {
  const { model } = chat;
  await editSettings(chat, model, model ? await defaults.of(model) : {}, { naming, pastes });
}

function showBar() {
  picker.show(chat.model);
  second.show(chat.second);
  const isComparing = Boolean(chat.second);
  second.element.hidden = !isComparing;
  at("topbar").querySelector(".versus").hidden = !isComparing;
  buttons.compare.setAttribute("aria-pressed", String(isComparing));
  const { system, sampling, title } = chat.conversation;
  buttons.settings.setAttribute("aria-pressed", String(Boolean(system) || Object.keys(sampling).length > 0));
  document.title = title ? `${title} · fastrouter` : "fastrouter";
}

function pick(id, isSecond) {
  chat.pick(id, isSecond);
  const model = models.get(id);
  announce(`${id}, ${model ? stateInWords(stateOf(model)) : ""}`);
  composer.focus();
}

function showTheme() {
  for (const button of [buttons.theme, buttons.themeBelow]) button.replaceChildren(icon(document.documentElement.dataset.theme === "dark" ? "sun" : "moon"));
}

// ---------------------------------------------------------------- the chat

const acts = {
  startNew: () => startNew(),
  edit: (message, text) => chat.edit(message, text),
  regenerate: (message) => chat.regenerate(message),
  retry: (message, model) => chat.retry(message, model),
  choose: (message, label = null) => {
    chat.choose(message);
    if (label) thread.focusVersions(message, label);
  },
  giveResults: (message, results) => {
    chat.giveResults(message, results);
    if (HAS_KEYBOARD.matches) composer.focus();
  },
  serverTools,
  media: store.media,
  openRoom: () => panels.room.toggle(true),
  fileOf: (id) => (models.get(id) ? fileOf(models.get(id)) : null),
  regenerateWith: async (message) => {
    const chosen = await pickInDialog("Answer again with");
    if (chosen) chat.regenerate(message, chosen);
  },
};

function startNew() {
  chat.startNew();
  composer.focus();
}

function pickInDialog(title) {
  return openDialog(title, (close) => {
    const list = new Picker(models, { label: title, isFit: canChat, onPick: close, onClose: close });
    list.show(chat.model);
    queueMicrotask(() => queueMicrotask(() => list.open()));
    return h("div.inside.pick-dialog", {}, h("h2", {}, title), list.element);
  });
}

const panels = {};
let room = null; // imported when it is first opened
const welcome = new Welcome(models, chat, { onPick: (id) => pick(id, false), openAll: () => picker.open(), openRoom: () => panels.room.toggle(true), askAgain });
const thread = new Thread(at("thread"), chat, acts, welcome, () => HAS_KEYBOARD.matches && composer.focus());
const composer = new Composer(at("composer"), chat, { contextOf: (model) => defaults.contextOf(model), costOf: (...medium) => costOf(api, ...medium), editLast: () => thread.editLast(), openSettings: () => openSettings(), pastes });
new Sidebar(at("sidebar"), chat, store, () => {
  if (panels.sidebar.isDrawer) panels.sidebar.close();
  composer.focus();
});
at("sidebar").querySelector(".sidebar-foot").append(buttons.roomBelow, buttons.themeBelow);
panels.sidebar = new Panel(at("sidebar"), buttons.sidebar, { name: "sidebar", isOpen: true, drawer: drawers.sidebar });
panels.room = new Panel(at("room"), buttons.room, { name: "room", isOpen: false, drawer: drawers.room, onOpen: openRoom });

function openRoomFromDrawer() {
  panels.sidebar.close();
  panels.room.toggle(true);
}

function openRoom() {
  room ??= import("./room/room.js")
    .then(({ mountRoom }) => mountRoom(at("room"), { api, models, close: () => panels.room.close() }))
    .catch((error) => {
      room = null;
      notify(`“Models and memory” cannot be opened: ${error.message}`);
    });
}

setTimeout(openRoom, 1500); // so that it opens immediately, and has seen what happened before

// ---------------------------------------------------------------- events

store.media.onLost = (error) => notify(`This browser has no room for a picture or sound, so it is lost when the page is closed: ${error.message}`);
store.addEventListener("foreign", ({ detail: id }) => {
  if (id === chat.conversation.id && !chat.isAnswering) chat.open(chat.conversation); // what another tab has done to it
});
for (const name of ["opened", "changed"]) chat.addEventListener(name, showBar);
models.addEventListener("change", () => {
  showBar();
  composer.show();
});
models.addEventListener("connection", ({ detail }) => {
  offline.hidden = detail.isOpen;
  document.documentElement.classList.toggle("is-offline", !detail.isOpen);
});
chat.addEventListener("running", () => chat.isAnswering && announce("The answer begins"));
chat.addEventListener("ended", ({ detail: message }) => {
  if (message.error) announce(`Error: ${message.error.message}`);
  else if (message.isStopped) announce("Stopped");
  else announce(message.toolCalls?.length ? `The model calls ${message.toolCalls.map(({ name }) => name).join(" and ")}, and waits for the result` : `The answer is complete, ${message.figures?.num_tokens ?? 0} tokens`);
});
addEventListener("themechange", showTheme);

listenToKeys({
  switchModel: () => picker.open(),
  newChat: startNew,
  focusComposer: () => composer.focus(),
  stop: () => chat.stop(),
  toggleSidebar: () => panels.sidebar.toggle(),
  toggleRoom: () => panels.room.toggle(),
});

// ---------------------------------------------------------------- the start

let watch = null; // of the models' events
let hiding = 0;

function watchModels() {
  clearTimeout(hiding);
  if (watch) return;
  watch = new AbortController();
  models.start(watch.signal).catch((error) => {
    watch = null;
    if (!models.isRefused || models.isKnown) notify(error.message); // else the empty page says it
  });
}

/** A browser has six connections to a server for all tabs: a tab that is not visible closes its event stream after a while. */
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return watchModels();
  hiding = setTimeout(() => {
    watch?.abort();
    watch = null;
  }, HIDDEN_MS);
});

async function readSettings() {
  const { ui_settings: settings = {}, tools_enabled: hasTools } = await api.get("props");
  if (hasTools) serverTools.load().catch((error) => notify(`The server's tools cannot be used: ${error.message}`));
  naming.isUsual = settings.nameConversations !== false;
  if (settings.pasteLongTextToFileLen >= 0) pastes.usual = settings.pasteLongTextToFileLen;
  const sampling = Object.fromEntries(SAMPLING_NAMES.filter((name) => Number.isFinite(settings[name])).map((name) => [name, settings[name]]));
  chat.defaults = { system: typeof settings.systemMessage === "string" ? settings.systemMessage : "", sampling };
  if (!Object.keys(chat.conversation.messages).length) Object.assign(chat.conversation, chat.defaults, { sampling: { ...sampling, ...chat.conversation.sampling } });
  chat.keep();
}

function askAgain() {
  composer.focus(); // the dialog would give the focus back to its button, which is gone
  begin();
}

function begin() {
  watchModels();
  readSettings().catch(() => {}); // these are only defaults
}

showTips();
showTheme();
showBar();
composer.focus();
store.open().then(() => chat.resume()).catch((error) => console.info("nothing is resumed:", error.message));
begin();
