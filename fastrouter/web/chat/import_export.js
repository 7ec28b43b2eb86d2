// Conversations as files: JSON that can be imported unchanged, Markdown to read. Knows no storage.
// Invariant: what is read from a file is checked and copied field by field; nothing unknown is taken.

import { newConversation, newId, pathOf } from "./conversation.js";
import { indented, isJson } from "../lib/json.js";
import { isSound, mediaOf } from "./media_parts.js";
import { problemOfSchema } from "./schema.js";
import { nameOf } from "./text_files.js";
import { CHOICES, EFFORTS, readTools } from "./tools.js";

const FORMAT = "fastrouter-conversations";
const MEDIA_KINDS = { images: "data:image/", sounds: "data:audio/" };
const MEDIA_LISTS = Object.keys(MEDIA_KINDS);
const ROLES = new Set(["user", "assistant", "tool"]);

/** Pictures and sounds are data URLs in it. `media`: {dataUrlOf(id)} */
export async function toJson(conversations, media) {
  const whole = structuredClone(conversations);
  for (const message of whole.flatMap((conversation) => Object.values(conversation.messages))) {
    for (const list of MEDIA_LISTS) if (message[list]) message[list] = (await Promise.all(message[list].map(({ id }) => media.dataUrlOf(id)))).filter(Boolean);
  }
  return JSON.stringify({ format: FORMAT, version: 1, conversations: whole }, null, 1);
}

/** Throws an Error that says what is wrong with the file. `media`: {keepUrl(url)} */
export function fromJson(text, media) {
  let file;
  try {
    file = JSON.parse(text);
  } catch (error) {
    throw new Error(`This is not JSON: ${error.message}`);
  }
  if (file?.format !== FORMAT || !Array.isArray(file.conversations)) throw new Error(`This JSON has no "format": "${FORMAT}"`);
  return file.conversations.map((given, index) => readConversation(given, index, media));
}

function readConversation(given, index, media) {
  if (typeof given?.messages !== "object" || given.messages === null) throw new Error(`Conversation ${index + 1} of the file has no messages`);
  const conversation = newConversation({
    title: string(given.title),
    created: number(given.created) ?? Date.now(),
    updated: number(given.updated) ?? Date.now(),
    model: typeof given.model === "string" ? given.model : null,
    system: string(given.system),
    sampling: samplingOf(object(given.sampling)),
    isNamed: true,
  });
  const given_messages = Object.values(given.messages).filter((message) => ROLES.has(message?.role) && typeof message.id === "string");
  const ids = new Map(given_messages.map((message) => [message.id, newId()]));
  for (const message of given_messages) conversation.messages[ids.get(message.id)] = readMessage(message, ids, media);
  for (const [parent, child] of Object.entries(object(given.chosen))) {
    if (ids.has(child) && (parent === "" || ids.has(parent))) conversation.chosen[ids.get(parent) ?? ""] = ids.get(child);
  }
  return conversation;
}

function readMessage(given, ids, media) {
  const message = {
    id: ids.get(given.id),
    parent: ids.get(given.parent) ?? null,
    order: number(given.order) ?? 0,
    created: number(given.created) ?? Date.now(),
    role: given.role,
    content: string(given.content),
  };
  if (given.reasoning) message.reasoning = string(given.reasoning);
  if (number(given.thought_ms)) message.thought_ms = given.thought_ms;
  if (given.model) message.model = string(given.model);
  for (const list of MEDIA_LISTS) {
    const kept = (Array.isArray(given[list]) ? given[list] : []).filter((url) => typeof url === "string" && url.startsWith(MEDIA_KINDS[list])).map((url) => media.keepUrl(url));
    if (kept.some(Boolean)) message[list] = kept.filter(Boolean);
  }
  const files = (Array.isArray(given.files) ? given.files : []).filter((file) => typeof file?.text === "string" && file.text);
  if (files.length) message.files = files.map(({ name, text }) => ({ name: nameOf(string(name)), text }));
  if (given.pair) message.pair = string(given.pair);
  if (Array.isArray(given.toolCalls)) message.toolCalls = given.toolCalls.map((call) => ({ id: string(call?.id) || `call_${newId()}`, name: string(call?.name), arguments: string(call?.arguments) }));
  if (given.role === "tool") message.results = Array.isArray(given.results) ? given.results.map(string) : [];
  for (const name of ["isStopped", "isCut", "isUnfinished"]) if (given[name] === true) message[name] = true;
  const figures = Object.entries(object(given.figures)).filter(([, value]) => typeof value === "number");
  if (figures.length) message.figures = Object.fromEntries(figures);
  return message;
}

function samplingOf({ json_schema: schema, stop, tools, tool_choice: choice, reasoning_effort: effort, ...given }) {
  const kept = Object.fromEntries(Object.entries(given).filter(([, value]) => ["number", "boolean", "string"].includes(typeof value)));
  if (typeof schema === "string" && !problemOfSchema(schema)) kept.json_schema = schema;
  if (typeof tools === "string" && !readTools(tools).problem) kept.tools = tools;
  if (CHOICES.includes(choice)) kept.tool_choice = choice;
  if (EFFORTS.includes(effort)) kept.reasoning_effort = effort;
  if (Array.isArray(stop)) kept.stop = stop.filter((text) => typeof text === "string" && text);
  return kept;
}

const string = (value) => (typeof value === "string" ? value : "");
const number = (value) => (Number.isFinite(value) ? value : undefined);
const object = (value) => (typeof value === "object" && value !== null ? value : {});

/** The part of it that is shown. */
export function toMarkdown(conversation) {
  const parts = [`# ${conversation.title || "Conversation"}`];
  if (conversation.system) parts.push(`> ${conversation.system.replaceAll("\n", "\n> ")}`);
  for (const message of pathOf(conversation)) parts.push(...(message.role === "tool" ? resultsOf(conversation, message) : partsOf(message)));
  return `${parts.filter(Boolean).join("\n\n")}\n`;
}

function partsOf(message) {
  const calls = (message.toolCalls ?? []).map((call) => `Calls \`${call.name}\`:\n\n${fenced(call.arguments)}`);
  const thoughts = message.reasoning && `<details><summary>Reasoning</summary>\n\n${message.reasoning.trim()}\n\n</details>`;
  const files = (message.files ?? []).map(({ name, text }) => `File \`${name}\`:\n\n${fenced(text)}`);
  const media = mediaOf(message).map((medium) => (isSound(medium) ? "*(a sound)*" : "*(a picture)*"));
  return [`## ${message.role === "user" ? "You" : message.model || "Model"}`, thoughts, ...media, message.content.trim(), ...files, ...calls];
}

function resultsOf(conversation, message) {
  const calls = conversation.messages[message.parent]?.toolCalls ?? [];
  return message.results.map((result, at) => `Result of \`${calls[at]?.name ?? "a tool"}\`:\n\n${fenced(result)}`);
}

/** A fence longer than any in the text. */
function fenced(text) {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([ticks]) => ticks.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}${isJson(text) ? "json" : ""}\n${indented(text).trimEnd()}\n${fence}`;
}

/** Gives the browser a file to save. */
export function saveFile(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export const fileNameOf = (title) => title.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 50) || "conversation";
