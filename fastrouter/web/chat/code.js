// Code blocks: a head with the language and a copy button; colours when the block is complete. Knows no message.
// Invariant: the highlighter is fetched when the first block needs it; without it the code is shown without colours.

import { h, icon } from "../lib/dom.js";
import { purify } from "./markdown.js";

const LONGEST_COLOURED = 60_000; // characters

let highlighter = null;

/** `isOpen`: the block may still grow. */
export function dressCode(root, { isOpen }) {
  for (const pre of root.querySelectorAll("pre")) {
    const code = pre.querySelector("code");
    if (!code) continue;
    const language = /language-([\w+#.-]+)/.exec(code.className)?.[1] ?? "";
    const box = h("div.code", {}, h("div.code-head", {}, h("span", {}, language || "text"), copyButton(() => code.textContent)));
    pre.replaceWith(box);
    pre.tabIndex = 0; // it may scroll
    pre.setAttribute("role", "region");
    pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
    box.append(pre);
    if (!isOpen && language) colour(code, language);
  }
}

/** For the head of a block. `text()`: what is copied. */
export function copyButton(text) {
  const button = h("button.code-copy", { type: "button", onclick: () => copyText(button, text()) }, icon("copy"), h("span", {}, "Copy"));
  return button;
}

export async function colour(code, language) {
  const text = code.textContent;
  if (text.length > LONGEST_COLOURED) return;
  try {
    highlighter ??= import("../vendor/highlight.js");
    const { default: hljs } = await highlighter;
    if (!hljs.getLanguage(language)) return;
    code.replaceChildren(purify(hljs.highlight(text, { language, ignoreIllegals: true }).value));
  } catch {
    highlighter = null; // the server cannot be reached: try again with the next block
  }
}

export async function copyText(button, text) {
  const label = button.querySelector("span");
  const before = label?.textContent;
  const isDone = await write(text);
  button.replaceChildren(icon(isDone ? "check" : "copy"), ...(label ? [h("span", {}, isDone ? "Copied" : "Not allowed")] : []));
  setTimeout(() => button.replaceChildren(icon("copy"), ...(label ? [h("span", {}, before)] : [])), 1600);
}

/** Over plain HTTP from another machine there is no clipboard, only the old command. */
async function write(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h("textarea.only-spoken", { value: text });
    document.body.append(area);
    area.select();
    const isDone = document.execCommand("copy");
    area.remove();
    return isDone;
  }
}
