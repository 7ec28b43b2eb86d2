// Settings of one conversation: its system prompt, its sampling, with the model's own values as placeholders. Knows no request.
// Invariant: an empty field means the model's default and is not stored; each field has a line that says what it does.

import { openDialog } from "../lib/dialogs.js";
import { h, icon } from "../lib/dom.js";
import { problemOfSchema } from "./schema.js";

/** name, label, least, most, step, what it does */
const FIRST = [
  ["temperature", "Temperature", 0, 5, 0.05, "How varied the answers are. 0 always takes the most likely word; above 1 becomes erratic."],
  ["max_tokens", "Maximum tokens", -1, 1_000_000, 1, "The longest answer. A token is about three quarters of an English word; -1 means no limit."],
];
const MORE = [
  ["top_p", "Top p", 0, 1, 0.01, "Chooses among the likeliest words whose chances add up to this. 1 turns it off."],
  ["top_k", "Top k", 0, 1000, 1, "Chooses among this many of the likeliest words. 0 turns it off."],
  ["min_p", "Min p", 0, 1, 0.01, "Leaves out words less likely than this share of the likeliest one. 0 turns it off."],
  ["repeat_penalty", "Repeat penalty", 0.1, 3, 0.01, "Makes words that were just used less likely. 1 turns it off; 1.1 is mild."],
  ["presence_penalty", "Presence penalty", -2, 2, 0.1, "Makes every word that was already used less likely, however often it was. 0 turns it off."],
  ["frequency_penalty", "Frequency penalty", -2, 2, 0.1, "Makes a word less likely each time that it is used. 0 turns it off."],
  ["seed", "Seed", -1, 4_294_967_295, 1, "The same number gives the same answer to the same question. -1 means a new one each time."],
];
const RANDOM_SEED = 4_294_967_295;
const IN_WORDS = { max_tokens: (value) => (value < 0 ? "no limit" : null), seed: (value) => (value < 0 || value === RANDOM_SEED ? "random" : null) };
export const SAMPLING_NAMES = [...FIRST, ...MORE].map(([name]) => name);

/** `defaults`: the model's own values by name, as far as they are known. */
export async function editSettings(chat, model, defaults) {
  const { conversation } = chat;
  const changed = await openDialog("Settings of this conversation", (close) => formOf(conversation, model, defaults, close));
  if (!changed) return;
  conversation.system = changed.system;
  conversation.sampling = changed.sampling;
  chat.keep();
}

function formOf(conversation, model, defaults, close) {
  const { sampling } = conversation;
  const system = h("textarea.input", { rows: 4, value: conversation.system, placeholder: "For example: You are a patient teacher. Answer briefly.", name: "system" });
  const first = FIRST.map((number) => numberOf(number, sampling, defaults));
  const more = MORE.map((number) => numberOf(number, sampling, defaults));
  const thinking = thinkingOf(model, sampling);
  const stop = h("textarea.input", { rows: 2, name: "stop", value: (sampling.stop ?? []).map(escaped).join("\n"), spellcheck: "false" });
  const schema = h("textarea.input.mono", { rows: 4, name: "json_schema", value: sampling.json_schema ?? "", placeholder: '{"type": "object", "properties": {"answer": {"type": "string"}}}', spellcheck: "false" });
  const fields = [...first, ...more, ...(thinking ? [thinking] : [])];
  const submit = (event) => {
    event.preventDefault();
    if (isFine(schema)) close({ system: system.value.trim(), sampling: read(fields, stop, schema) });
  };
  const reset = () => {
    for (const input of [system, stop, schema, ...fields.map((field) => field.input)]) input.value = "";
    isFine(schema);
  };
  schema.addEventListener("input", () => isFine(schema));
  for (const { input } of more) input.addEventListener("invalid", () => input.closest("details").setAttribute("open", "")); // to be seen
  return h("form.settings", { onsubmit: submit },
    h("h2", {}, "Settings of this conversation"),
    h("p.settings-note", {}, `An empty field means what ${model?.id ?? "the model"} does by itself. The grey value is that default.`),
    tall(system, "System prompt", "What the model should always know or do: its role, tone, language."),
    first.map(({ row }) => row),
    thinking?.row,
    section("Choice of words", MORE.some(([name]) => name in sampling), more.map(({ row }) => row)),
    section("Form and end of the answer", Boolean(sampling.stop?.length || sampling.json_schema), [
      tall(stop, "Stop strings", "The answer ends where one of these appears. One on each line; \\n stands for a new line."),
      tall(schema, "JSON schema", "The answer is JSON that follows this schema, and nothing else."),
      h("p.settings-problem", { role: "alert", hidden: true }),
    ]),
    h("div.buttons", {},
      h("button.button", { type: "button", onclick: reset }, "Defaults"),
      h("button.button", { type: "button", onclick: () => close() }, "Cancel"),
      h("button.button.primary", { type: "submit" }, "Save")));
}

const section = (title, open, rows) => h("details.settings-section", { open }, h("summary", {}, icon("right"), title), rows);

// ---------------------------------------------------------------- rows

function numberOf([name, label, min, max, step, help], sampling, defaults) {
  const known = defaults[name];
  const placeholder = Number.isFinite(known) ? (IN_WORDS[name]?.(known) ?? String(Math.round(known * 1e4) / 1e4)) : "default";
  const input = h("input.input", { type: "number", name, min, max, step: "any", inputmode: "decimal", placeholder, value: sampling[name] ?? "", "data-step": step });
  return { name, input, row: rowOf(input, label, help) };
}

/** Only where the template reads it. */
function thinkingOf(model, sampling) {
  if (!model?.chat_template_caps?.kwargs?.includes("enable_thinking")) return null;
  const choices = [["", "default"], ["true", "on"], ["false", "off"]];
  const input = h("select.input", { name: "enable_thinking" }, choices.map(([value, label]) => h("option", { value }, label)));
  input.value = sampling.enable_thinking === undefined ? "" : String(sampling.enable_thinking);
  return { name: "enable_thinking", input, row: rowOf(input, "Thinking", "Whether the model reasons before it answers.") };
}

/** The field on the right, its name and what it does on the left. */
const rowOf = (input, label, help) => h("div.settings-row", {}, ...named(input, label, help), input);

const tall = (input, label, help) => h("div.settings-tall", {}, ...named(input, label, help), input);

function named(input, label, help) {
  input.id = `setting-${input.name}`;
  input.setAttribute("aria-describedby", `${input.id}-help`);
  return [h("div", {}, h("label", { for: input.id }, label), h("p.settings-help", { id: `${input.id}-help` }, help))];
}

// ---------------------------------------------------------------- values

function isFine(schema) {
  const problem = schema.value.trim() ? problemOfSchema(schema.value) : "";
  const line = schema.form?.querySelector(".settings-problem");
  if (line) {
    line.hidden = !problem;
    line.textContent = problem;
  }
  schema.setAttribute("aria-invalid", String(Boolean(problem)));
  return !problem;
}

function read(fields, stop, schema) {
  const given = fields.filter(({ input }) => input.value !== "").map(({ name, input }) => [name, name === "enable_thinking" ? input.value === "true" : Number(input.value)]);
  const texts = stop.value.split("\n").filter(Boolean).map(unescaped);
  if (texts.length) given.push(["stop", texts]);
  if (schema.value.trim()) given.push(["json_schema", schema.value.trim()]);
  return Object.fromEntries(given);
}

const escaped = (text) => text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll("\t", "\\t");
const unescaped = (text) => text.replace(/\\(.)/g, (all, letter) => ({ n: "\n", t: "\t", "\\": "\\" })[letter] ?? all);
