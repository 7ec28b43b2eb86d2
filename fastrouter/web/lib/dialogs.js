// Questions to the user, short notices, and announcements for screen readers.
// Invariant: a question resolves once; a dialog that is closed in any other way resolves with null.

import { h } from "./dom.js";

const TOAST_MS = 6_000;

/** A modal dialog with `content`; resolves with the argument of `close`, or null. `content(close)` makes its nodes. */
export function openDialog(label, content) {
  return new Promise((resolve) => {
    let result = null;
    const dialog = h("dialog", { "aria-label": label, onclose: () => { dialog.remove(); resolve(result); } });
    const close = (value = null) => {
      if (!dialog.open) return;
      result = value;
      dialog.close();
    };
    dialog.addEventListener("click", (event) => event.target === dialog && close());
    dialog.append(...[content(close)].flat());
    document.body.append(dialog);
    dialog.showModal();
  });
}

export function confirmAction(title, text, action) {
  return openDialog(title, (close) => h(
    "form", { method: "dialog" },
    h("h2", {}, title),
    h("p", {}, text),
    h("div.buttons", {},
      h("button.button", { type: "button", autofocus: true, onclick: () => close() }, "Cancel"),
      h("button.button.danger", { type: "button", onclick: () => close(true) }, action)),
  ));
}

export function askText(title, label, value = "", { action = "Save", type = "text", note = null } = {}) {
  return openDialog(title, (close) => {
    const input = h("input.input", { type, value, autocomplete: "off", autofocus: true, spellcheck: "false" });
    const submit = (event) => {
      event.preventDefault();
      if (input.value.trim()) close(input.value.trim());
    };
    return h(
      "form", { onsubmit: submit },
      h("h2", {}, title),
      note && h("p", {}, note),
      h("label.field", {}, label, input),
      h("div.buttons", {},
        h("button.button", { type: "button", onclick: () => close() }, "Cancel"),
        h("button.button.primary", { type: "submit" }, action)),
    );
  });
}

export function askForKey(isWrong) {
  const note = isWrong ? "The router does not accept this key." : "This router asks for an API key. It stays in this browser.";
  return askText("API key", "Key", "", { action: "Continue", type: "password", note });
}

/** A notice for some seconds; `action` is {label, act}. */
export function notify(text, action = null) {
  const toast = h("div.toast", {}, h("span", {}, text));
  if (action) toast.append(h("button.button.small", { type: "button", onclick: () => { toast.remove(); action.act(); } }, action.label));
  document.getElementById("toasts").append(toast);
  setTimeout(() => toast.remove(), TOAST_MS);
}

/** For screen readers only. */
export function announce(text) {
  document.getElementById("spoken").textContent = text;
}
