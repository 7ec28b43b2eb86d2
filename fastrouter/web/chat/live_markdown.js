// Markdown that grows: finished blocks are rendered once, only the last one is rendered again. Knows no message.
// Invariant: drawing takes only the time of the last block, and at most a fifth of all time, however long the answer is.

import { dressCode } from "./code.js";
import { blocksOf, renderBlocks } from "./markdown.js";
import { dressMath } from "./math.js";

const MOST_OF_TIME = 0.2;
const LONG_LIST = 60; // items
const KEPT_ITEMS = 10;
const CERTAIN = 8; // characters that show the kind of a new block

export class LiveMarkdown {
  #element;
  #last; // the block that may still change
  #text = "";
  #settled = 0; // characters in finished blocks
  #frame = 0;
  #timer = 0;
  #cost_ms = 0;
  #drawn = 0;
  #code = null; // an open code block: {node of its text, language}

  constructor(element) {
    this.#element = element;
    this.#last = document.createElement("div");
    this.#last.className = "last-block";
    element.replaceChildren(this.#last);
  }

  /** Takes the whole text so far, and draws it soon. */
  set(text) {
    if (text === this.#text) return;
    if (!text.startsWith(this.#text.slice(0, this.#settled))) this.#restart();
    this.#text = text;
    if (this.#frame || this.#timer) return;
    const rest_ms = this.#drawn + this.#cost_ms / MOST_OF_TIME - performance.now();
    if (rest_ms > 16) this.#timer = setTimeout(() => this.#ask(), rest_ms);
    else this.#ask();
  }

  /** The text is complete: draw it now. */
  finish(text) {
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#timer);
    this.#frame = this.#timer = 0;
    if (text !== undefined && !text.startsWith(this.#text.slice(0, this.#settled))) this.#restart();
    if (text !== undefined) this.#text = text;
    this.#settle(blocksOf(this.#text.slice(this.#settled)));
    this.#last.remove();
  }

  #ask() {
    this.#timer = 0;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      const begun = performance.now();
      this.#draw();
      this.#drawn = performance.now();
      this.#cost_ms = this.#drawn - begun;
    });
  }

  #restart() {
    this.#settled = 0;
    this.#code = null;
    this.#element.replaceChildren(this.#last);
  }

  #draw() {
    const blocks = blocksOf(this.#text.slice(this.#settled));
    const num_done = numDone(blocks);
    if (num_done) this.#settle(blocks.slice(0, num_done));
    const open = blocks.slice(num_done);
    this.#settleItems(open);
    if (open.length === 1 && open[0].type === "code" && this.#growCode(open[0])) return;
    this.#code = null;
    const fragment = renderBlocks(open);
    dressMath(fragment);
    dressCode(fragment, { isOpen: true });
    this.#last.replaceChildren(fragment);
    if (open.length !== 1 || open[0].type !== "code") return;
    const node = this.#last.querySelector("pre code")?.firstChild;
    if (node) this.#code = { node, language: open[0].lang };
  }

  /** Adds to the block without changing what is there. The name of its language may still have been incomplete. */
  #growCode({ text, lang }) {
    if (!this.#code || this.#code.language !== lang) return false;
    const { node } = this.#code;
    const shown = node.data.slice(0, -1); // renderers end it with a newline
    if (!node.isConnected || !text.startsWith(shown)) return false;
    node.insertData(shown.length, text.slice(shown.length));
    return true;
  }

  /** A long list would be one block, but its items are finished long before the list. */
  #settleItems(open) {
    const [list] = open;
    if (open.length !== 1 || list.type !== "list" || list.items.length < LONG_LIST) return;
    const items = list.items.slice(0, -KEPT_ITEMS);
    const raw = items.map((item) => item.raw).join("");
    if (!this.#text.startsWith(raw, this.#settled)) return;
    this.#settle([{ ...list, items, raw }]);
    open.splice(0, 1, ...blocksOf(this.#text.slice(this.#settled)));
  }

  #settle(blocks) {
    const fragment = renderBlocks(blocks);
    dressCode(fragment, { isOpen: false });
    dressMath(fragment);
    this.#last.before(fragment);
    this.#settled += blocks.reduce((length, block) => length + block.raw.length, 0);
    this.#code = null;
  }
}

/** All but the last one, and not the one before it either if the last has only begun: "- a" may be a list, or continue the paragraph. */
function numDone(blocks) {
  let last = blocks.length - 1;
  while (last > 0 && blocks[last].type === "space") last -= 1;
  if (last > 0 && blocks[last].raw.length < CERTAIN && !blocks[last].raw.includes("\n")) last -= 1;
  while (last > 0 && blocks[last].type === "space") last -= 1;
  return Math.max(last, 0);
}
