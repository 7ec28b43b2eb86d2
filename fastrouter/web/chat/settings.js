// Settings of one conversation: its system prompt, its sampling, with the model's own values as placeholders; its tools. Knows no request.
// Invariant: an empty field means the model's default and is not stored; each field has a line that says what it does.

import { openDialog } from "../lib/dialogs.js";
import { h } from "../lib/dom.js";
import { problemOfSchema } from "./schema.js";
import { serverToolsOf } from "./server_tools_rows.js";
import { checkedOf, rowOf, sectionOf, selectOf, tallOf } from "./settings_rows.js";
import { CHOICES, EFFORTS, EXAMPLE, readTools } from "./tools.js";

/** name, label, least, most, step, what it does */
const FIRST = [
  ["temperature", "Temperature", 0, 5, 0.05, "How varied the answers are. 0 always takes the most likely word; above 1 they often make no sense."],
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

/** `defaults`: the model's values by name, as far as they are known. Of this browser: `naming`, whether models name conversations; `pastes`,
 * how long a pasted text may be. */
export async function editSettings(chat, model, defaults, { naming, pastes }) {
  const { conversation } = chat;
  const changed = await openDialog("Settings of this conversation", (close) => formOf(conversation, model, defaults, { naming, pastes, ofServer: chat.serverTools, close }));
  if (!changed) return;
  if (changed.isNaming !== naming.isOn) naming.isOn = changed.isNaming;
  if (changed.paste !== pastes.characters) pastes.characters = changed.paste;
  conversation.system = changed.system;
  conversation.sampling = changed.sampling;
  chat.keep();
}

function formOf(conversation, model, defaults, { naming, pastes, ofServer, close }) {
  const { sampling } = conversation;
  const system = h("textarea.input", { rows: 4, value: conversation.system, placeholder: "For example: You are a patient teacher. Answer briefly.", name: "system" });
  const first = FIRST.map((number) => numberOf(number, sampling, defaults));
  const more = MORE.map((number) => numberOf(number, sampling, defaults));
  const thinking = thinkingOf(model, sampling);
  const stop = h("textarea.input", { rows: 2, name: "stop", value: (sampling.stop ?? []).map(escaped).join("\n"), spellcheck: "false" });
  const schema = schemaOf(sampling);
  const tools = toolsOf(sampling);
  const serverTools = serverToolsOf(ofServer, sampling.server_tools ?? []);
  const choice = choiceOf(sampling);
  const names = h("input", { type: "checkbox", name: "naming", checked: naming.isOn });
  const paste = h("input.input", { type: "number", name: "paste", min: 0, max: 1_000_000, step: 1, required: true, value: pastes.characters });
  const fields = [...first, ...more, ...thinking, choice];
  const submit = (event) => {
    event.preventDefault();
    const wrong = [tools, schema].filter((field) => !field.isFine());
    if (wrong.length) return show(wrong[0].input);
    return close({ system: system.value.trim(), sampling: read(fields, { stop, schema, tools, serverTools }), isNaming: names.checked, paste: Number(paste.value) });
  };
  const reset = () => {
    for (const input of [system, stop, schema.input, tools.input, ...fields.map((field) => field.input)]) input.value = "";
    for (const field of [tools, schema]) field.isFine();
    serverTools.clear();
  };
  for (const input of [paste, ...more.map((each) => each.input)]) input.addEventListener("invalid", () => input.closest("details").setAttribute("open", "")); // so that the message is seen
  return h("form.settings", { onsubmit: submit },
    h("h2", {}, "Settings of this conversation"),
    h("p.settings-note", {}, `An empty field means the default of ${model?.id ?? "the model"}, which is shown in grey.`),
    tallOf(system, "System prompt", "What the model should always know or do: its role, tone, language."),
    first.map(({ row }) => row),
    thinking.map(({ row }) => row),
    sectionOf("Choice of words", MORE.some(([name]) => name in sampling), more.map(({ row }) => row)),
    sectionOf("Form and end of the answer", Boolean(sampling.stop?.length || sampling.json_schema), [
      tallOf(stop, "Stop strings", "The answer ends where one of these appears. One on each line; \\n stands for a new line."),
      schema.row,
    ]),
    sectionOf("Tools", Boolean(sampling.tools || serverTools.row), [serverTools.row, tools.row, choice.row].filter(Boolean)),
    sectionOf("This browser", false, [
      rowOf(names, "Names by the model", "After the first answer, the model is asked for a short name for the conversation. This is for all conversations."),
      rowOf(paste, "Long pastes", "A pasted text with more characters than this is attached as a file. 0: never."),
    ]),
    h("div.buttons", {},
      h("button.button", { type: "button", onclick: reset }, "Defaults"),
      h("button.button", { type: "button", onclick: () => close() }, "Cancel"),
      h("button.button.primary", { type: "submit" }, "Save")));
}

function show(input) {
  input.closest("details").open = true;
  input.focus();
}

// ---------------------------------------------------------------- rows

function numberOf([name, label, min, max, step, help], sampling, defaults) {
  const known = defaults[name];
  const placeholder = Number.isFinite(known) ? (IN_WORDS[name]?.(known) ?? String(Math.round(known * 1e4) / 1e4)) : "default";
  const input = h("input.input", { type: "number", name, min, max, step: "any", inputmode: "decimal", placeholder, value: sampling[name] ?? "", "data-step": step });
  return { name, input, row: rowOf(input, label, help) };
}

/** Only rows that the model's template reads. */
function thinkingOf(model, sampling) {
  const caps = model?.chat_template_caps;
  const isThinking = sampling.enable_thinking === undefined ? "" : String(sampling.enable_thinking);
  const found = [];
  if (caps?.kwargs?.includes("enable_thinking")) {
    found.push(selectOf("enable_thinking", isThinking, [["", "default"], ["true", "on"], ["false", "off"]], "Thinking", "Whether the model reasons before it answers."));
  }
  if (caps?.supports_reasoning_effort) {
    const choices = [["", "default"], ...EFFORTS.map((effort) => [effort, effort])];
    found.push(selectOf("reasoning_effort", sampling.reasoning_effort ?? "", choices, "Reasoning effort", "How much the model reasons before it answers. More takes longer."));
  }
  return found;
}

function schemaOf(sampling) {
  const input = h("textarea.input.mono", { rows: 4, name: "json_schema", value: sampling.json_schema ?? "", placeholder: '{"type": "object", "properties": {"answer": {"type": "string"}}}', spellcheck: "false" });
  const check = (text) => ({ problem: problemOfSchema(text) });
  return checkedOf(input, "JSON schema", "The answer is JSON that follows this schema, and nothing else.", check);
}

function toolsOf(sampling) {
  const input = h("textarea.input.mono", { rows: 6, name: "tools", value: sampling.tools ?? "", placeholder: EXAMPLE, spellcheck: "false" });
  const check = (text) => {
    const { tools, problem } = readTools(text);
    return { problem, note: problem ? "" : `${tools.length} ${tools.length === 1 ? "tool" : "tools"}: ${tools.map((tool) => tool.function.name).join(", ")}` };
  };
  return checkedOf(input, "Tools", "What the model may call, as JSON. These are not run: you write what a tool returns.", check);
}

function choiceOf(sampling) {
  const choices = [["", "default"], ...CHOICES.map((choice) => [choice, choice])];
  return selectOf("tool_choice", sampling.tool_choice ?? "", choices, "Tool choice", "auto: the model decides. none: it calls no tool. required: it calls at least one.");
}

// ---------------------------------------------------------------- values

function read(fields, { stop, schema, tools, serverTools }) {
  const given = fields.filter(({ input }) => input.value !== "").map(({ name, input }) => [name, READ[name]?.(input.value) ?? Number(input.value)]);
  const texts = stop.value.split("\n").filter(Boolean).map(unescaped);
  if (texts.length) given.push(["stop", texts]);
  const names = serverTools.names();
  if (names.length) given.push(["server_tools", names]);
  for (const { input } of [schema, tools]) if (input.value.trim()) given.push([input.name, input.value.trim()]);
  return Object.fromEntries(given);
}

const READ = { enable_thinking: (value) => value === "true", reasoning_effort: String, tool_choice: String };
const escaped = (text) => text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll("\t", "\\t");
const unescaped = (text) => text.replace(/\\(.)/g, (all, letter) => ({ n: "\n", t: "\t", "\\": "\\" })[letter] ?? all);
