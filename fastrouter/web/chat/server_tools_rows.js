// The server's tools in the settings of a conversation: a box for each. Knows no request.
// Invariant: the choice keeps the names of tools that are not there now, because their MCP server may come back.

import { h } from "../lib/dom.js";

/** `tools`: ServerTools; `chosen`: names. Gives {row, names(), clear()}; `row` is null if the server has no tools. */
export function serverToolsOf(tools, chosen) {
  const wanted = new Set(chosen);
  const list = h("div.server-tool-list");
  const wait = h("p.settings-help", { role: "status" });
  const all = h("button.quiet", { type: "button", onclick: () => setAll(tools.list().some(({ name }) => !wanted.has(name))) }, "All or none");
  const fill = () => {
    list.replaceChildren(...tools.list().map((tool) => rowOf(tool, wanted)));
    all.hidden = tools.list().length < 2;
    wait.textContent = tools.isLoading ? "Asking the server for its tools …" : "";
  };
  const setAll = (isChosen) => {
    for (const { name } of tools.list()) wanted[isChosen ? "add" : "delete"](name);
    fill();
  };
  fill();
  tools.loaded.then(fill);
  const row = h("fieldset.server-tools", {}, h("legend", {}, "Tools of the server"),
    h("p.settings-help", {}, "The model may call these, and the server runs them. Before each call you are asked."), list, wait, all);
  return { row: tools.isLoading || tools.list().length ? row : null, names: () => [...wanted], clear: () => { wanted.clear(); fill(); } };
}

function rowOf({ name, title, description, isMcp }, wanted) {
  const onchange = ({ target }) => wanted[target.checked ? "add" : "delete"](name);
  return h("label.server-tool", {}, h("input", { type: "checkbox", name: "server_tool", value: name, checked: wanted.has(name), onchange }),
    h("span", {}, h("code", {}, name), isMcp || title === name ? "" : ` ${title}`, h("span.settings-help", {}, firstSentence(description))));
}

const firstSentence = (text) => /^[^\n]*?[.](?=\s|$)|^[^\n]*/.exec(text)[0];
