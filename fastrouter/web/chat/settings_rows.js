// The rows of the settings: a field, its name, a line that says what it does, and what is wrong with its value. Knows no setting.

import { h, icon } from "../lib/dom.js";

/** The field on the right, its name and what it does on the left. */
export const rowOf = (input, label, help) => h("div.settings-row", {}, ...named(input, label, help), input);

export const tallOf = (input, label, help) => h("div.settings-tall", {}, ...named(input, label, help), input);

export const sectionOf = (title, open, rows) => h("details.settings-section", { open }, h("summary", {}, icon("right"), title), rows);

/** `choices`: [value, label] each. */
export function selectOf(name, value, choices, label, help) {
  const input = h("select.input", { name }, choices.map(([each, words]) => h("option", { value: each }, words)));
  input.value = value;
  return { name, input, row: rowOf(input, label, help) };
}

/** A text that must have a form. `check(text)` gives {problem, note}: "" for none. `isFine()` shows and says it. */
export function checkedOf(input, label, help, check) {
  const problem = h("p.settings-problem", { role: "alert", hidden: true });
  const note = h("p.settings-fine", { role: "status" });
  const isFine = () => {
    const found = input.value.trim() ? check(input.value) : {};
    problem.textContent = found.problem ?? "";
    problem.hidden = !found.problem;
    note.textContent = found.note ?? "";
    input.setAttribute("aria-invalid", String(Boolean(found.problem)));
    return !found.problem;
  };
  input.addEventListener("input", isFine);
  isFine();
  return { input, row: h("div.settings-checked", {}, tallOf(input, label, help), problem, note), isFine };
}

function named(input, label, help) {
  input.id = `setting-${input.name}`;
  input.setAttribute("aria-describedby", `${input.id}-help`);
  return [h("div", {}, h("label", { for: input.id }, label), h("p.settings-help", { id: `${input.id}-help` }, help))];
}
