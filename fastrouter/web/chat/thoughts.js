// A model's thought before its answer: open while it comes, then folded, with the time that it took. Does not know where the message is.
// Invariant: after the user has opened or closed it, it stays so.

import { h, icon } from "../lib/dom.js";
import { secondsInWords } from "../lib/words.js";
import { LiveMarkdown } from "./live_markdown.js";

export class Thoughts {
  #details;
  #label = h("span");
  #prose;
  #isFinished = false;
  #isTouched = false;
  element = h("div", { hidden: true });

  /** For an answer, which may have no thought. */
  update(message, isRunning) {
    if (!message.reasoning) return;
    if (!this.#details) this.#make();
    const isThinking = isRunning && Boolean(message.isThinking);
    this.#label.textContent = labelOf(message, isThinking);
    if (!this.#isTouched) this.#details.open = isThinking;
    if (isRunning) this.#prose.set(message.reasoning);
    else if (!this.#isFinished) this.#prose.finish(message.reasoning);
    this.#isFinished = !isRunning;
  }

  #make() {
    const prose = h("div.prose.thoughts");
    const touched = () => { this.#isTouched = true; };
    this.#details = h("details.reasoning", {}, h("summary", { onclick: touched }, icon("right"), this.#label), prose);
    this.#prose = new LiveMarkdown(prose);
    this.element.append(this.#details);
    this.element.hidden = false;
  }
}

function labelOf({ thought_ms: ms }, isThinking) {
  const time = ms >= 1 ? secondsInWords(ms) : "";
  if (isThinking) return time ? `Thinking … ${time}` : "Thinking …";
  return time ? `Thought for ${time}` : "Thoughts";
}
