// Formulas as MathML. Knows no message.
// Invariant: the renderer is fetched when the first formula needs it; a formula that it cannot read stays as it was written.

import DOMPurify from "../vendor/dompurify.js";

const LONGEST = 5_000; // characters
const MAX_KEPT = 500;

const rendered = new Map(); // finished formulas, because the last block is drawn many times
let temml = null;
let isAsked = false;

export function dressMath(root) {
  const spans = root.querySelectorAll("span.math");
  if (!spans.length) return;
  if (temml) spans.forEach(draw);
  else if (!isAsked) fetchRenderer();
}

async function fetchRenderer() {
  isAsked = true;
  try {
    const link = Object.assign(document.createElement("link"), { rel: "stylesheet", href: new URL("../vendor/temml.css", import.meta.url).href });
    document.head.append(link);
    temml = (await import("../vendor/temml.js")).default;
    document.querySelectorAll("span.math").forEach(draw);
  } catch {
    isAsked = false;
  }
}

function draw(span) {
  const latex = span.textContent;
  const isDisplay = span.dataset.display === "block";
  const key = `${isDisplay}${latex}`;
  if (!rendered.has(key)) {
    if (rendered.size >= MAX_KEPT) rendered.clear();
    rendered.set(key, latex.length > LONGEST ? null : toMathMl(latex, isDisplay));
  }
  const math = rendered.get(key);
  if (math) span.replaceWith(math.cloneNode(true));
}

function toMathMl(latex, isDisplay) {
  const holder = document.createElement("span");
  try {
    temml.render(latex, holder, { displayMode: isDisplay, throwOnError: true, trust: false, maxExpand: 500, maxSize: [20, 20] });
  } catch {
    return null;
  }
  // Its styles are set through the CSSOM; the page's policy would remove them from a string.
  DOMPurify.sanitize(holder, { IN_PLACE: true, USE_PROFILES: { mathMl: true }, ADD_TAGS: ["span"] });
  if (isDisplay) holder.className = "math-display";
  return holder;
}
