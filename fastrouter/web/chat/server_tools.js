// Tools that the server runs: its own and those of its MCP servers. Which there are, who allowed a call, the calls. Knows no element of the page.
// Invariant: a call is sent only after the user has allowed it, or this tool "always" in this conversation. A reload forgets what was allowed.

import { isWhole } from "./conversation.js";
import { readTools } from "./tools.js";

const MAX_ROUNDS = 25; // of calls without a question, then the user is asked again
const DENIED = "The user did not allow this call.";

/** States of a call: `asked`, `running`, `given`, `denied`, `stopped`; null: the server does not run it. */
export class ServerTools {
  #api;
  #chat;
  #known = new Map(); // {name, title, description, isMcp, definition} by name
  #always = new Map(); // names, by the conversation's id
  isLoading = false;
  loaded = Promise.resolve(); // when the list has come, or cannot be had
  #runs = new Map(); // {conversation, calls: [{state, result, controller}]}, by the message's id

  constructor(api, chat) {
    this.#api = api;
    this.#chat = chat;
    chat.serverTools = this;
  }

  /** Asks the server. Its MCP servers may need some seconds. */
  async load() {
    this.isLoading = true;
    const loading = this.#load().finally(() => {
      this.isLoading = false;
    });
    this.loaded = loading.catch(() => {});
    return loading;
  }

  async #load() {
    const tools = await this.#api.get("tools");
    this.#known = new Map(tools.map(({ tool, display_name: title, type, definition }) => [tool, { name: tool, title, isMcp: type === "mcp", description: definition.function.description ?? "", definition }]));
    this.#changed();
  }

  list() {
    return [...this.#known.values()];
  }

  /** The ones that a conversation offers to its model; a pasted tool of the same name goes first. */
  chosenOf({ server_tools: names, tools: pasted }) {
    const taken = new Set(pasted ? readTools(pasted).tools.map((tool) => tool.function.name) : []);
    return (Array.isArray(names) ? names : []).map((name) => this.#known.get(name)).filter((tool) => tool && !taken.has(tool.name));
  }

  // ------------------------------------------------------------ calls

  /** Of the call at `at`; `isOpen`: its results have not been given yet. */
  stateOf(message, at) {
    const call = message.toolCalls[at];
    if (!isWhole(call)) return null;
    const known = this.#runs.get(message.id)?.calls[at]?.state;
    return known ?? (this.#isOffered(this.#conversationOf(message), call.name) ? "asked" : null);
  }

  resultOf(message, at) {
    return this.#runs.get(message.id)?.calls[at]?.result ?? null;
  }

  /** After an answer: calls of tools that are always allowed begin. */
  answered(conversation, message) {
    if (message.error || message.isStopped || !message.toolCalls) return;
    if (roundsBefore(conversation, message) >= MAX_ROUNDS) return;
    message.toolCalls.forEach((call, at) => {
      if (isWhole(call) && this.#isOffered(conversation, call.name) && this.#always.get(conversation.id)?.has(call.name)) this.#run(conversation, message, at);
    });
  }

  allow(message, at, { isAlways = false } = {}) {
    const conversation = this.#conversationOf(message);
    const { name } = message.toolCalls[at];
    if (!isAlways) return this.#run(conversation, message, at);
    if (!this.#always.has(conversation.id)) this.#always.set(conversation.id, new Set());
    this.#always.get(conversation.id).add(name);
    return message.toolCalls.forEach((call, other) => call.name === name && this.stateOf(message, other) === "asked" && this.#run(conversation, message, other));
  }

  deny(message, at) {
    const conversation = this.#conversationOf(message);
    this.#set(conversation, message, at, { state: "denied", result: DENIED });
    this.#finish(conversation, message);
  }

  isRunning(conversation) {
    return [...this.#runs.values()].some((run) => run.conversation === conversation && run.calls.some((call) => call?.state === "running"));
  }

  stop(conversation) {
    for (const run of this.#runs.values()) if (run.conversation === conversation) for (const call of run.calls) call?.controller?.abort();
  }

  async #run(conversation, message, at) {
    const controller = new AbortController();
    this.#set(conversation, message, at, { state: "running", controller });
    const { name, arguments: text } = message.toolCalls[at];
    try {
      const answer = await this.#api.post("tools", { tool: name, params: JSON.parse(text || "{}") }, controller.signal);
      this.#set(conversation, message, at, { state: "given", result: textOf(answer) });
    } catch (error) {
      if (error.name === "AbortError") return this.#set(conversation, message, at, { state: "stopped" });
      this.#set(conversation, message, at, { state: "given", result: `Error: ${error.message}` });
    }
    return this.#finish(conversation, message);
  }

  /** The answer goes on when nothing is missing: no answer of the user, no call that runs, no result that the user writes. */
  #finish(conversation, message) {
    const whole = message.toolCalls.map((call, at) => at).filter((at) => isWhole(message.toolCalls[at]));
    if (!conversation.messages[message.id] || !whole.every((at) => this.resultOf(message, at) !== null)) return;
    const results = message.toolCalls.map((_, at) => this.resultOf(message, at) ?? "");
    this.#runs.delete(message.id);
    this.#chat.giveResults(message, results, conversation);
  }

  #set(conversation, message, at, call) {
    if (!this.#runs.has(message.id)) this.#runs.set(message.id, { conversation, calls: [] });
    this.#runs.get(message.id).calls[at] = call;
    this.#changed();
  }

  #isOffered(conversation, name) {
    return this.chosenOf(conversation.sampling).some((tool) => tool.name === name);
  }

  #conversationOf(message) {
    return this.#runs.get(message.id)?.conversation ?? this.#chat.conversation;
  }

  #changed() {
    this.#chat.dispatchEvent(new CustomEvent("changed"));
  }
}

/** How many times the model has called tools since the last question. */
function roundsBefore(conversation, message) {
  let num = 0;
  for (let at = message; at && at.role !== "user"; at = conversation.messages[at.parent]) num += at.role === "tool";
  return num;
}

/** What the model gets of an answer of POST /tools: the text of a built-in tool, or the parts of an MCP result. */
export function textOf(answer) {
  const { error, plain_text_response: text, content, isError, structuredContent } = answer ?? {};
  if (error !== undefined) return `Error: ${typeof error === "string" ? error : (error?.message ?? JSON.stringify(error))}`;
  if (typeof text === "string") return text;
  if (!Array.isArray(content)) return JSON.stringify(answer);
  const parts = content.map((part) => part.text ?? part.resource?.text ?? `[${part.type ?? "something"}, which is not shown]`);
  const whole = parts.length ? parts.join("\n") : JSON.stringify(structuredContent ?? {});
  return isError ? `Error: ${whole}` : whole;
}
