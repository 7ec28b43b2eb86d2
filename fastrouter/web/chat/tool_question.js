// The question in a tool's card: may the server run this call? Knows no request.

import { h } from "../lib/dom.js";

/** `acts`: {allow(), always(), deny()} */
export function questionOf(name, acts) {
  const button = (label, act, kind = "") => h(`button.button.small${kind}`, { type: "button", onclick: act }, label);
  return h("div.tool-question", { role: "group", "aria-label": `May the server run ${name}?` },
    h("p", {}, "The server would run this call. Its result goes to the model."),
    h("div.buttons", {}, button("Deny", acts.deny), button("Always for this tool", acts.always), button("Allow", acts.allow, ".primary")));
}
