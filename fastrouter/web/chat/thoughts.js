// What a model thought before it answered: open while it comes, folded from then on, with the time that it took. Knows no message's place.
// Invariant: who has opened or closed it decides.

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

  /** Of an answer; it may have none. */
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
