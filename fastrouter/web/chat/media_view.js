// A picture or a sound on the page, with its size and what it costs. Knows no conversation.

import { h } from "../lib/dom.js";
import { inWords, secondsInWords } from "../lib/words.js";
import { isSound } from "./media_parts.js";

const GONE = "This browser does not have it any more";

/** {element, update()}: `update` shows what has been learned about it. `url`: a promise. `extra`: elements in it. */
export function viewOfMedium(medium, url, label, ...extra) {
  const shown = isSound(medium) ? h("audio", { controls: true, preload: "metadata", "aria-label": label }) : h("img", { alt: label, ...sizeOf(medium) });
  const caption = h("figcaption", {}, captionOf(medium));
  const element = h(isSound(medium) ? "figure.medium.sound" : "figure.medium.picture", {}, shown, caption, ...extra);
  Promise.resolve(url).then((found) => {
    if (found) shown.src = found;
    else shown.replaceWith(h("p.note", {}, GONE));
  });
  return { element, update: () => { caption.textContent = captionOf(medium); } };
}

const sizeOf = ({ width, height }) => (width ? { width, height } : {}); // so that the page does not jump when it comes

function captionOf({ width, seconds, height, tokens }) {
  const parts = [width && `${inWords(width)} × ${inWords(height)}`, seconds && secondsInWords(1000 * seconds), tokens && `${inWords(tokens)} ${tokens === 1 ? "token" : "tokens"}`];
  return parts.filter(Boolean).join(", ");
}
