// What happens in conversations: sending, answering, branching, stopping. Knows no element of the page.
// Invariant: the store gets every change; an answer continues when another conversation is opened.

import { hasNoTemplate, stateOf } from "../models.js";
import { runAnswer } from "./answer.js";
import * as tree from "./conversation.js";
import { filled } from "./media_parts.js";
import { readTools } from "./tools.js";

const MODEL_NAME = "fastrouter.model";
const OPEN_NAME = "fastrouter.open"; // of this tab's conversation
const SAVE_EVERY_MS = 2_000; // while an answer comes
const MAX_RESUMED = 200;

/** Events: `opened` (another conversation), `changed` (its messages or settings), `progress` (detail: message), `asked`, `running`, `ended` (detail: message). */
export class Chat extends EventTarget {
  #api;
  #store;
  #models;
  #naming;
  #running = new Map(); // AbortController by message id
  conversation = tree.newConversation();
  defaults = {}; // of new conversations: {system, sampling}
  serverTools = null; // ServerTools

  constructor(api, store, models, naming) {
    super();
    this.#api = api;
    this.#store = store;
    this.#models = models;
    this.#naming = naming;
  }

  // ------------------------------------------------------------ conversations

  startNew() {
    const { model, second } = this.conversation;
    this.open(tree.newConversation({ model, second, system: this.defaults.system ?? "", sampling: { ...this.defaults.sampling } }));
  }

  open(conversation) {
    this.conversation = conversation;
    sessionStorage.setItem(OPEN_NAME, conversation.id);
    this.#tell("opened");
  }

  async remove(conversation) {
    this.#stop(conversation);
    await this.#store.remove(conversation.id);
    if (conversation.id === this.conversation.id) this.startNew();
  }

  rename(conversation, title) {
    conversation.title = title;
    conversation.isNamed = true;
    return this.#store.save(conversation);
  }

  // ------------------------------------------------------------ models

  /** The model that answers next: the conversation's, else the one used last, else one that was made for chats. */
  get model() {
    const chosen = this.#models.get(this.conversation.model ?? "");
    if (chosen) return chosen;
    const candidates = this.#candidates();
    const last = this.#models.get(localStorage.getItem(MODEL_NAME) ?? "");
    return (candidates.includes(last) ? last : candidates[0]) ?? null;
  }

  /** Models that may be used without a choice of the user: none that is broken or makes vectors. Models made for chats come first, of these those in memory. */
  #candidates() {
    const rank = (model) => 2 * hasNoTemplate(model) + (model.status.value !== "loaded");
    const isReady = (model) => canChat(model) && !["failed", "downloading"].includes(stateOf(model));
    return this.#models.list().filter(isReady).sort((a, b) => rank(a) - rank(b));
  }

  get second() {
    return this.conversation.second ? (this.#models.get(this.conversation.second) ?? null) : null;
  }

  pick(id, isSecond = false) {
    if (isSecond) this.conversation.second = id;
    else {
      this.conversation.model = id;
      localStorage.setItem(MODEL_NAME, id);
    }
    this.keep();
  }

  setComparing(isComparing) {
    const other = this.#candidates().find((model) => model.id !== this.model?.id) ?? this.model;
    this.conversation.second = isComparing ? (other?.id ?? null) : null;
    this.keep();
  }

  /** After a change of settings; a conversation without messages is not stored yet. */
  keep() {
    if (Object.keys(this.conversation.messages).length) this.#save(this.conversation);
    this.#tell("changed");
  }

  // ------------------------------------------------------------ messages

  /** `attached`: {images, sounds, files}; the first two have a `blob` each. */
  send(content, { images = [], sounds = [], files = [] } = {}) {
    const { conversation } = this;
    const parent = tree.pathOf(conversation).at(-1)?.id ?? null;
    const kept = (media) => media.map((medium) => this.#store.media.keep(medium));
    this.#ask(tree.addMessage(conversation, parent, { role: "user", content, ...withoutEmpty({ images: kept(images), sounds: kept(sounds), files }) }));
  }

  /** A sibling with another text; the messages below the old one stay. */
  edit(message, content) {
    const { images = [], sounds = [], files = [] } = message;
    this.#ask(tree.addMessage(this.conversation, message.parent, { role: "user", content, ...withoutEmpty({ images, sounds, files }) }));
  }

  /** Results of the tools that `message` calls; the answer continues below them. Other results of the same calls are a sibling. */
  giveResults(message, results, conversation = this.conversation) {
    const isShown = conversation === this.conversation;
    tree.choose(conversation, message);
    const given = tree.addMessage(conversation, message.id, { role: "tool", results });
    if (isShown) this.#tell("asked");
    this.#answer(given, (message.pair || !isShown ? null : this.model?.id) ?? message.model, {}, conversation);
  }

  regenerate(message, model = message.model) {
    const question = this.conversation.messages[message.parent];
    if (question) this.#answer(question, model);
  }

  /** Replaces an answer that failed. */
  retry(message, model = message.model) {
    const question = this.conversation.messages[message.parent];
    tree.removeMessage(this.conversation, message);
    if (question) this.#answer(question, model, { pair: message.pair, order: message.order });
  }

  choose(message) {
    tree.choose(this.conversation, message);
    this.keep();
  }

  #ask(question) {
    const { model, second } = this;
    if (!model) return;
    this.conversation.model = model.id;
    this.#tell("asked");
    if (!second) {
      this.#answer(question, model.id);
    } else {
      const pair = tree.newId();
      this.#answer(question, model.id, { pair });
      this.#answer(question, second.id, { pair });
      tree.choose(this.conversation, tree.childrenOf(this.conversation, question.id)[0]);
      this.#tell("changed");
    }
  }

  async #answer(question, model, place = {}, conversation = this.conversation) {
    const messages = tree.promptOf(conversation, question, abilitiesOf(this.#models.get(model)));
    const fields = requestFieldsOf(conversation.sampling, this.toolsOf(conversation.sampling));
    const request = async () => ({ model, messages: await filled(messages, this.#store.media), ...fields });
    const message = tree.addMessage(conversation, question.id, { role: "assistant", model, isUnfinished: true, ...place });
    if (conversation === this.conversation) sessionStorage.setItem(OPEN_NAME, conversation.id);
    await this.#run(conversation, message, request);
  }

  /** Answers that this browser has not read to their end, and that the server still has. Opens the conversation that this tab had open. */
  async resume() {
    const unfinished = this.#store.list().flatMap(tree.unfinishedOf).filter(({ message }) => !this.#running.has(message.id)).slice(0, MAX_RESUMED);
    if (!unfinished.length) return;
    const found = await this.#api.post("v1/streams/lookup", { conversation_ids: unfinished.map(({ id }) => id) });
    const ids = new Set(found.map((each) => each.conversation_id));
    const resumed = unfinished.filter(({ id }) => ids.has(id));
    const last = resumed.find(({ conversation }) => conversation.id === sessionStorage.getItem(OPEN_NAME));
    if (last && !Object.keys(this.conversation.messages).length) this.open(last.conversation);
    for (const { conversation, message } of resumed) this.#run(conversation, message, null);
  }

  /** `request()` resolves with the body; null: it is running already. */
  async #run(conversation, message, request) {
    const controller = new AbortController();
    this.#running.set(message.id, controller);
    this.#save(conversation);
    this.#tell("changed");
    this.#tell("running");
    let saved = performance.now();
    const id = tree.streamIdOf(conversation, message);
    const isKnown = await runAnswer(this.#api, id, request && (await request()), message, {
      signal: controller.signal,
      onChange: () => {
        this.#tell("progress", message);
        if (performance.now() - saved < SAVE_EVERY_MS) return;
        saved = performance.now();
        this.#save(conversation);
      },
    });
    this.#running.delete(message.id);
    if (isKnown) delete message.isUnfinished;
    this.#noteCosts(conversation, message);
    tree.touch(conversation);
    if (conversation.messages[message.id]) this.#save(conversation);
    this.#tell("ended", message);
    this.#tell("running");
    if (isKnown) {
      inOneTab(id, () => {
        this.serverTools?.answered(conversation, message);
        return this.#name(conversation, message);
      });
    }
  }

  /** The server says for each picture and sound of the prompt how many tokens it had. */
  #noteCosts(conversation, { parent, media_tokens: tokens = [] }) {
    const media = tree.mediaAbove(conversation, conversation.messages[parent]);
    if (!media.length || media.length !== tokens.length) return;
    media.forEach((medium, at) => { medium.tokens = tokens[at]; });
    this.#tell("changed");
  }

  async #name(conversation, answer) {
    const before = conversation.title;
    const title = await this.#naming.titleOf(conversation, answer);
    if (!title || conversation.title !== before || this.#store.get(conversation.id) !== conversation) return;
    await this.rename(conversation, title);
    this.#tell("changed");
  }

  // ------------------------------------------------------------ running

  isRunning(message) {
    return this.#running.has(message.id);
  }

  get isAnswering() {
    return Object.keys(this.conversation.messages).some((id) => this.#running.has(id)) || Boolean(this.serverTools?.isRunning(this.conversation));
  }

  stop() {
    this.#stop(this.conversation);
  }

  #stop(conversation) {
    for (const id of Object.keys(conversation.messages)) this.#running.get(id)?.abort();
    this.serverTools?.stop(conversation);
  }

  /** All tools that a conversation offers to its model, in OpenAI's form. */
  toolsOf(sampling) {
    const pasted = sampling.tools ? readTools(sampling.tools).tools : [];
    return [...pasted, ...(this.serverTools?.chosenOf(sampling) ?? []).map((tool) => tool.definition)];
  }

  #save(conversation) {
    this.#store.save(conversation).catch((error) => console.warn("not kept:", error));
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/** What follows an answer is done once, also if several tabs have read the answer. */
function inOneTab(id, act) {
  if (!navigator.locks) return act(); // only pages of https and of this machine have them
  return navigator.locks.request(`fastrouter ${id}`, { ifAvailable: true }, (lock) => (lock ? act() : null));
}

export function canChat(model) {
  const capabilities = model.capabilities ?? [];
  return !capabilities.includes("embedding") && !capabilities.includes("rerank");
}

const takes = (model, kind) => model?.architecture?.input_modalities?.includes(kind) ?? false;

export const canSee = (model) => takes(model, "image");

export const canHear = (model) => takes(model, "audio");

const abilitiesOf = (model) => ({ sees: canSee(model), hears: canHear(model) });

const withoutEmpty = (lists) => Object.fromEntries(Object.entries(lists).filter(([, list]) => list.length));

/** A model whose abilities are not known is allowed. */
export const canCall = (model) => !model?.capabilities || model.capabilities.includes("tools");

/** `enable_thinking` goes to the template, `json_schema` is a text here, `all` are the tools; everything else is a field. */
function requestFieldsOf({ enable_thinking: isThinking, json_schema: schema, tools, server_tools: names, tool_choice: choice, ...sampling }, all) {
  const fields = { ...sampling };
  if (all.length) Object.assign(fields, { tools: all }, choice ? { tool_choice: choice } : {});
  if (isThinking !== undefined) fields.chat_template_kwargs = { enable_thinking: isThinking };
  if (schema) fields.response_format = { type: "json_schema", json_schema: { name: "answer", schema: JSON.parse(schema) } };
  return fields;
}
