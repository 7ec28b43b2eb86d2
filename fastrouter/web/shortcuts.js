// Keys of the whole page, and the dialog that lists them. The caller passes in the actions.

import { openDialog } from "./lib/dialogs.js";
import { h } from "./lib/dom.js";

const HELP = [
  ["Switch model", ["Ctrl", "K"]],
  ["New chat", ["Ctrl", "Shift", "O"]],
  ["To the composer", ["/"]],
  ["Send", ["Enter"]],
  ["New line", ["Shift", "Enter"]],
  ["Edit the last question", ["↑"]],
  ["Stop the answer", ["Esc"]],
  ["Conversations", ["["]],
  ["Models and memory", ["]"]],
  ["This help", ["?"]],
];
const IS_MAC = navigator.platform.startsWith("Mac");

/** `acts`: {switchModel, newChat, focusComposer, stop, toggleSidebar, toggleRoom} */
export function listenToKeys(acts) {
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const act = actOf(event, acts);
    if (!act) return;
    event.preventDefault();
    act();
  });
}

function actOf(event, acts) {
  const isCommand = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  if (isCommand && !event.shiftKey && key === "k") return acts.switchModel;
  if (isCommand && event.shiftKey && key === "o") return acts.newChat;
  if (event.key === "Escape") return acts.stop;
  if (isCommand || event.altKey || isWriting(event.target)) return null;
  return { "/": acts.focusComposer, "?": showHelp, "[": acts.toggleSidebar, "]": acts.toggleRoom }[event.key] ?? null;
}

const isWriting = (element) => element.matches?.("input, textarea, select, [contenteditable]") ?? false;

export function showHelp() {
  return openDialog("Keyboard", (close) =>
    h("div.inside", {},
      h("h2", {}, "Keyboard"),
      h("dl.keys", {}, HELP.flatMap(([label, keys]) => [h("dt", {}, label), h("dd", {}, keys.map((key) => h("kbd", {}, IS_MAC && key === "Ctrl" ? "⌘" : key)))])),
      h("div.buttons", {}, h("button.button.primary", { type: "button", autofocus: true, onclick: () => close() }, "Close"))));
}
