// Markdown of a model into safe nodes. Knows no message.
// Invariant: a model's text reaches the page only through `purify`; its HTML is shown as text, except a few harmless tags.

import DOMPurify from "../vendor/dompurify.js";
import { Marked } from "../vendor/marked.js";

const HARMLESS = /^<\/?(?:br|sub|sup|kbd|mark|b|i|u|em|strong)\s*\/?>$/i;
const ESCAPED = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const escapeHtml = (text) => text.replace(/[&<>"]/g, (character) => ESCAPED[character]);

const TAGS = "p br hr h1 h2 h3 h4 h5 h6 strong em b i u del code pre blockquote ul ol li table thead tbody tr th td a span sub sup kbd mark";
const PURE = { ALLOWED_TAGS: TAGS.split(" "), ALLOWED_ATTR: ["href", "class", "align", "start", "title", "data-display"], ALLOW_DATA_ATTR: false, ALLOW_ARIA_ATTR: false };
const CLASSES = /^(?:language-[\w+#.-]+|math|hljs(?:-[\w-]+)?|[a-z]+_)$/;
const WEB = /^(?:https?:|mailto:)/i;

const purifier = DOMPurify(window);
purifier.addHook("uponSanitizeAttribute", (node, attribute) => {
  if (attribute.attrName === "class") attribute.attrValue = attribute.attrValue.split(/\s+/).filter((name) => CLASSES.test(name)).join(" ");
  else if (attribute.attrName === "href") attribute.keepAttr = WEB.test(attribute.attrValue);
});
purifier.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
});

/** A fragment. */
export function purify(html) {
  return purifier.sanitize(html, { ...PURE, RETURN_DOM_FRAGMENT: true });
}

const renderer = {
  html: ({ text, raw }) => (HARMLESS.test((text ?? raw).trim()) ? text : escapeHtml(text ?? raw)),
  // A browser would fetch a picture as soon as it is written, from any server that the text names: so it becomes a link.
  image: ({ href, text }) => `<a href="${escapeHtml(href)}">${escapeHtml(text || href)}</a>`,
  checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  code: ({ text, lang }) => {
    const language = /^[\w+#.-]+/.exec(lang ?? "")?.[0];
    return `<pre><code${language ? ` class="language-${escapeHtml(language)}"` : ""}>${escapeHtml(text)}\n</code></pre>`;
  },
};

const mathSpan = ({ text, isDisplay }) => `<span class="math"${isDisplay ? ' data-display="block"' : ""}>${escapeHtml(text)}</span>`;

/** marked's extension for formulas that `pattern` finds; its first filled group is the formula. */
function formula(name, level, opening, pattern, isDisplay) {
  return {
    name,
    level,
    start: (source) => {
      // The search ends where the text around it may end; otherwise long answers would be searched to their end many times.
      const end = source.indexOf(level === "block" ? "\n\n" : "\n");
      const at = (end < 0 ? source : source.slice(0, end)).search(opening);
      return at < 0 ? undefined : at;
    },
    tokenizer: (source) => {
      const found = pattern.exec(source);
      if (!found) return undefined;
      const text = found.slice(1).find((group) => group !== undefined);
      return { type: name, raw: found[0], text: text.trim(), isDisplay };
    },
    renderer: mathSpan,
  };
}

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer,
  extensions: [
    formula("mathBlock", "block", /^ {0,3}(?:\$\$|\\\[)/m, /^ {0,3}(?:\$\$([^$]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n|$)/, true),
    formula("mathInlineBlock", "inline", /\$\$|\\\[/, /^(?:\$\$([^$]+?)\$\$|\\\[([\s\S]+?)\\\])/, true),
    formula("mathInline", "inline", /\$|\\\(/, /^(?:\\\(([\s\S]+?)\\\)|\$(?![\s$])((?:\\.|[^$\\\n])*?[^\s$\\])\$(?!\d))/, false),
  ],
});

/** Blocks of the text; their `raw` values together are the text. */
export const blocksOf = (text) => marked.lexer(text);

export const renderBlocks = (blocks) => purify(marked.parser(blocks));
