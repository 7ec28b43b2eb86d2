// Names of conversations, from the model that answered first: one short request after the answer. Knows no page.
// Invariant: it loads no model, never delays an answer, and the name stays unchanged after any failure.

import { hasNoTemplate } from "../models.js";
import { splitThinking } from "./answer.js";
import { attachedInWords, titleOf } from "./conversation.js";

const NAME = "fastrouter.naming";
const MAX_TOKENS = 12;
const PRIORITY = -100; // after all other requests
const LONGEST_PART = 400; // characters of the question, and of the answer
const MAX_WORDS = 8; // a longer title is a sentence, and the start of the question tells more
const ASK = "Write a title of two to five words for a conversation that begins like this, in its language. Write only the title.";

export class Naming {
  #api;
  #models;
  isUsual = true; // if this browser has no choice stored

  constructor(api, models) {
    this.#api = api;
    this.#models = models;
  }

  get isOn() {
    return (localStorage.getItem(NAME) ?? String(this.isUsual)) === "true";
  }

  set isOn(isOn) {
    localStorage.setItem(NAME, String(isOn));
  }

  /** A title, or null. Asks once for each conversation, after its first answer. */
  async titleOf(conversation, answer) {
    const question = conversation.messages[answer.parent];
    if (!this.isOn || conversation.isNamed || question?.role !== "user" || !isFirst(conversation, answer) || !this.#canAsk(answer.model)) return null;
    conversation.isNamed = true;
    try {
      const title = readTitle(await this.#api.post("v1/chat/completions", requestOf(question, answer)));
      return [question, answer].some(({ content }) => beginsWith(content, title)) ? null : title; // small models repeat the text that they read
    } catch (error) {
      console.info("not named:", error.message);
      return null;
    }
  }

  #canAsk(id) {
    const model = this.#models.get(id);
    return model?.status.value === "loaded" && !hasNoTemplate(model);
  }
}

function isFirst(conversation, answer) {
  const others = Object.values(conversation.messages).filter(({ role, id, content }) => role === "assistant" && id !== answer.id && content);
  const isUseful = !answer.error && !answer.isStopped && (answer.content || answer.toolCalls);
  return Boolean(isUseful) && others.every((other) => other.pair && other.pair === answer.pair);
}

function requestOf(question, answer) {
  const part = (text) => text.trim().slice(0, LONGEST_PART);
  const parts = [ASK, part(question.content || attachedInWords(question)), part(answer.content), "Title:"];
  const messages = [{ role: "user", content: parts.filter(Boolean).join("\n\n") }];
  return { model: answer.model, messages, max_tokens: MAX_TOKENS, temperature: 0, priority: PRIORITY, chat_template_kwargs: { enable_thinking: false } };
}

function readTitle({ choices }) {
  const { message, finish_reason: finish } = choices[0];
  return tidy(splitThinking(message.content ?? "").content, finish === "length");
}

const beginsWith = (text, title) => Boolean(title) && text.trim().toLowerCase().startsWith(title.toLowerCase());

/** The first line without the marks that models put around it; of a line that was cut, only whole words. Null if it is not a title. */
export function tidy(text, isCut) {
  const [line, ...more] = text.trim().split("\n");
  const words = line.replace(/[*_`#"“”„«»]/g, "").trim().replace(/^(?:title|name)\s*:\s*/i, "").split(/\s+/);
  if (isCut && !more.length && words.length > 1) words.pop();
  const title = words.join(" ").replace(/[.:,;\s]+$/, "");
  return title && words.length <= MAX_WORDS ? titleOf(title) : null;
}
