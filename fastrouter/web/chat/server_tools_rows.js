// The server's tools in the settings of a conversation: a box for each. Knows no request.

import { h } from "../lib/dom.js";

/** `offered`: ServerTools.list(); `chosen`: names. Gives {row, names(), clear()}; `row` is null if there are none. */
export function serverToolsOf(offered, chosen) {
  const boxes = offered.map(({ name }) => h("input", { type: "checkbox", name: "server_tool", value: name, checked: chosen.includes(name) }));
  const isOffered = (name) => offered.some((tool) => tool.name === name); // a server that does not answer now may come back
  const all = h("button.quiet", { type: "button", onclick: () => setAll(!boxes.every((box) => box.checked)) }, "All or none");
  const setAll = (isChosen) => {
    for (const box of boxes) box.checked = isChosen;
  };
  const rows = offered.map(({ name, title, description, isMcp }, at) =>
    h("label.server-tool", {}, boxes[at], h("span", {}, h("code", {}, name), ` ${isMcp || title === name ? "" : title}`, h("span.settings-help", {}, firstSentence(description)))));
  const row = h("fieldset.server-tools", {}, h("legend", {}, "Tools of the server"),
    h("p.settings-help", {}, "The model may call these, and the server runs them. Before each call you are asked."), rows, boxes.length > 1 ? all : null);
  return {
    row: boxes.length ? row : null,
    names: () => [...boxes.filter((box) => box.checked).map((box) => box.value), ...chosen.filter((name) => !isOffered(name))],
    clear: () => setAll(false),
  };
}

const firstSentence = (text) => /^[^\n]*?[.](?=\s|$)|^[^\n]*/.exec(text)[0];
