// Settings of one conversation: its system prompt, its sampling, with the model's own values as placeholders. Knows no request.
// Invariant: an empty field means the model's default and is not stored.

import { openDialog } from "../dialogs.js";
import { h } from "../dom.js";

/** name, label, least, most, step */
const NUMBERS = [
  ["temperature", "Temperature", 0, 5, 0.05],
  ["top_p", "Top p", 0, 1, 0.01],
  ["top_k", "Top k", 0, 1000, 1],
  ["min_p", "Min p", 0, 1, 0.01],
  ["repeat_penalty", "Repeat penalty", 0.1, 3, 0.01],
  ["presence_penalty", "Presence penalty", -2, 2, 0.1],
  ["frequency_penalty", "Frequency penalty", -2, 2, 0.1],
  ["max_tokens", "Most tokens", -1, 1_000_000, 1],
  ["seed", "Seed", -1, 4_294_967_295, 1],
];
const RANDOM_SEED = 4_294_967_295;
const IN_WORDS = { max_tokens: (value) => (value < 0 ? "no limit" : null), seed: (value) => (value < 0 || value === RANDOM_SEED ? "random" : null) };
export const SAMPLING_NAMES = NUMBERS.map(([name]) => name);

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
  const system = h("textarea.input", { rows: 4, value: conversation.system, placeholder: "How the model should behave", name: "system" });
  const fields = NUMBERS.map((number) => fieldOf(number, conversation.sampling, defaults));
  const thinking = thinkingOf(model, conversation.sampling);
  const submit = (event) => {
    event.preventDefault();
    close({ system: system.value.trim(), sampling: read(fields, thinking) });
  };
  const reset = () => {
    system.value = "";
    for (const { input } of fields) input.value = "";
    if (thinking) thinking.value = "";
  };
  return h("form.settings", { onsubmit: submit },
    h("h2", {}, "This conversation"),
    h("label.field", {}, "System prompt", system),
    h("div.settings-grid", {}, fields.map(({ label }) => label), thinking && h("label.field", {}, "Thinking", thinking)),
    h("p.settings-note", {}, model ? `Empty fields mean what ${model.id} does by itself.` : "Empty fields mean what the model does by itself."),
    h("div.buttons", {},
      h("button.button", { type: "button", onclick: reset }, "Defaults"),
      h("button.button", { type: "button", onclick: () => close() }, "Cancel"),
      h("button.button.primary", { type: "submit" }, "Save")));
}

function fieldOf([name, label, min, max, step], sampling, defaults) {
  const known = defaults[name];
  const placeholder = Number.isFinite(known) ? (IN_WORDS[name]?.(known) ?? String(Math.round(known * 1e4) / 1e4)) : "default";
  const input = h("input.input", { type: "number", name, min, max, step: "any", inputmode: "decimal", placeholder, value: sampling[name] ?? "", "data-step": step });
  return { name, input, label: h("label.field", {}, label, input) };
}

/** Only where the template reads it. */
function thinkingOf(model, sampling) {
  if (!model?.chat_template_caps?.kwargs?.includes("enable_thinking")) return null;
  const choices = [["", "default"], ["true", "on"], ["false", "off"]];
  const select = h("select.input", { name: "enable_thinking" }, choices.map(([value, label]) => h("option", { value }, label)));
  select.value = sampling.enable_thinking === undefined ? "" : String(sampling.enable_thinking);
  return select;
}

function read(fields, thinking) {
  const given = fields.filter(({ input }) => input.value !== "").map(({ name, input }) => [name, Number(input.value)]);
  if (thinking?.value) given.push(["enable_thinking", thinking.value === "true"]);
  return Object.fromEntries(given);
}
