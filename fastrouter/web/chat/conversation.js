// One conversation: a tree of messages, of which one path is shown. Plain values, so that it can be stored and exported unchanged.
// Roles: user, assistant, and tool, whose `results` belong to its parent's `toolCalls`, in the same order.
// Knows no page, no model and no storage. Invariant: every message except the first ones has a parent; `chosen` names the child that is shown.

import { isSound, mediaOf, partsOfMedia } from "./media_parts.js";
import { partOf } from "./text_files.js";

const ROOT = "";
const LONGEST_TITLE = 60;
const NO_RESULT = "No result."; // of a call that the user skipped: templates need one for each

export const newId = () => crypto.getRandomValues(new Uint32Array(3)).reduce((text, part) => text + part.toString(36).padStart(7, "0"), "");

export function newConversation(settings = {}) {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, model: null, system: "", sampling: {}, messages: {}, chosen: {}, isNamed: false, ...settings };
}

/** Adds a message below `parent` (null: at the beginning), and shows it. */
export function addMessage(conversation, parent, fields) {
  const siblings = childrenOf(conversation, parent);
  const message = { id: newId(), parent, order: (siblings.at(-1)?.order ?? -1) + 1, created: Date.now(), content: "", ...fields };
  conversation.messages[message.id] = message;
  conversation.chosen[parent ?? ROOT] = message.id;
  touch(conversation);
  if (!conversation.title && message.role === "user") conversation.title = titleOf(message.content || attachedInWords(message));
  return message;
}

export function touch(conversation) {
  conversation.updated = Date.now();
}

/** In the order in which they were made. */
export function childrenOf(conversation, parent) {
  const found = Object.values(conversation.messages).filter((message) => message.parent === parent);
  return found.sort((a, b) => a.order - b.order);
}

/** What is shown, from the first message to the last. */
export function pathOf(conversation) {
  const path = [];
  const seen = new Set(); // an imported file may have a loop
  let next = conversation.messages[conversation.chosen[ROOT]];
  while (next && !seen.has(next.id)) {
    path.push(next);
    seen.add(next.id);
    next = conversation.messages[conversation.chosen[next.id]];
  }
  return path;
}

/** The answers that are shown beside this one, with itself. */
export function pairOf(conversation, message) {
  return message.pair ? childrenOf(conversation, message.parent).filter((one) => one.pair === message.pair) : [message];
}

/** The messages that can be shown in its place, with itself; of a pair only one. */
export function versionsOf(conversation, message) {
  const seen = new Set();
  return childrenOf(conversation, message.parent).filter((one) => {
    if (!one.pair) return true;
    if (one.pair === message.pair) return one.id === message.id;
    const isNew = !seen.has(one.pair);
    seen.add(one.pair);
    return isNew;
  });
}

export function choose(conversation, message) {
  conversation.chosen[message.parent ?? ROOT] = message.id;
}

/** Removes it with all messages below it. Shows a sibling, if there is one. */
export function removeMessage(conversation, message) {
  for (const child of childrenOf(conversation, message.id)) removeMessage(conversation, child);
  delete conversation.messages[message.id];
  delete conversation.chosen[message.id];
  const left = childrenOf(conversation, message.parent);
  if (left.length) choose(conversation, left.at(-1));
  else delete conversation.chosen[message.parent ?? ROOT];
}

/** The messages of a request that is answered below `message`, by a model with these `abilities` ({sees, hears}). Pictures and sounds get
 * their bytes later. Questions without an answer are left out: templates need alternating turns. */
export function promptOf(conversation, message, abilities) {
  const path = pathTo(conversation, message);
  const prompt = path.flatMap((each, at) => {
    if (each.role === "tool") return resultsOf(path[at - 1], each.results);
    if (each.role === "assistant") return answerOf(each, path[at + 1]);
    return at + 1 === path.length || hasSaid(path[at + 1]) ? [{ role: "user", content: partsOf(each, abilities) }] : [];
  });
  return conversation.system ? [{ role: "system", content: conversation.system }, ...prompt] : prompt;
}

function pathTo(conversation, message) {
  const path = [];
  for (let at = message; at; at = conversation.messages[at.parent]) path.unshift(at);
  return path;
}

/** All pictures and sounds that an answer below `message` is told of. */
export const mediaAbove = (conversation, message) => pathTo(conversation, message).flatMap(mediaOf);

/** The arguments of an incomplete call cannot be read. */
export function isWhole(call) {
  try {
    return typeof JSON.parse(call.arguments || "{}") === "object";
  } catch {
    return false;
  }
}

const hasSaid = ({ content, toolCalls }) => Boolean(content) || (toolCalls ?? []).some(isWhole);

/** The model's template decides whether a thought of an earlier turn is used. */
function answerOf(message, next) {
  if (!hasSaid(message)) return [];
  const calls = (message.toolCalls ?? []).filter(isWhole);
  const turn = { role: "assistant", content: message.content };
  if (message.reasoning) turn.reasoning_content = message.reasoning;
  if (!calls.length) return [turn];
  turn.tool_calls = calls.map(({ id, name, arguments: text }) => ({ id, type: "function", function: { name, arguments: text || "{}" } }));
  return next?.role === "tool" ? [turn] : [turn, ...resultsOf(message, [])];
}

function resultsOf({ toolCalls = [] }, results) {
  const given = toolCalls.map((call, at) => ({ call, content: results[at] ?? NO_RESULT }));
  return given.filter(({ call }) => isWhole(call)).map(({ call, content }) => ({ role: "tool", tool_call_id: call.id, name: call.name, content }));
}

/** The text comes last: the rest stays the same when the question is changed, so that the model need not read it again. */
function partsOf(message, abilities) {
  const { content, files = [] } = message;
  const before = [...files.map(partOf), ...partsOfMedia(message, abilities)];
  return before.length ? [...before, ...(content ? [{ type: "text", text: content }] : [])] : content;
}

export function attachedInWords(message) {
  const names = (message.files ?? []).map(({ name }) => name);
  return [...names, ...mediaOf(message).map((medium) => (isSound(medium) ? "Sound" : "Picture"))].join(", ");
}

/** Of the stream that brings an answer. */
export const streamIdOf = (conversation, message) => `${conversation.id}::${message.id}`;

/** [{conversation, message, id of its stream}]: answers that were not read to their end. */
export function unfinishedOf(conversation) {
  const found = Object.values(conversation.messages).filter((message) => message.isUnfinished);
  return found.map((message) => ({ conversation, message, id: streamIdOf(conversation, message) }));
}

export function titleOf(text) {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length > LONGEST_TITLE ? `${line.slice(0, LONGEST_TITLE - 1).trimEnd()}…` : line;
}

export function isMatch(conversation, words) {
  if (!words.length) return true;
  const textsOf = ({ content, toolCalls = [], results = [], files = [] }) => [content, ...files.map(({ name }) => name), ...toolCalls.map((call) => `${call.name} ${call.arguments}`), ...results];
  const text = [conversation.title, ...Object.values(conversation.messages).flatMap(textsOf)].join("\n").toLowerCase();
  return words.every((word) => text.includes(word));
}
