// What an answer cost, under it: tokens, speed, first token, and the parts of its time as a bar. Knows no conversation.

import { h } from "../lib/dom.js";
import { inWords, secondsInWords } from "../lib/words.js";

const PARTS = [
  ["queue", "queue"],
  ["load", "load"],
  ["prefill", "prefill"],
  ["decode", "answer"],
];
const LEAST_LOAD_MS = 1; // less: the model was in memory

/** An element, or null while there is nothing to show. An answer that was stopped before its first token still has a time. */
export function figuresOf({ figures, isStopped }, isRunning) {
  if (!figures?.num_tokens && !isStopped) return null;
  const timing = isRunning ? null : timingOf(figures);
  if (!figures.num_tokens) return timing && h("div.figures", {}, timing);
  const parts = [`${inWords(figures.num_tokens)} ${figures.num_tokens === 1 ? "token" : "tokens"}`];
  if (figures.per_second) parts.push(`${figures.per_second < 100 ? figures.per_second.toFixed(1) : inWords(figures.per_second)} tokens/s`);
  if (figures.ttft_ms) parts.push(`first token ${secondsInWords(figures.ttft_ms)}`);
  if (figures.num_cached_tokens) parts.push(`${inWords(figures.num_cached_tokens)} of ${inWords(figures.num_prompt_tokens)} prompt tokens cached`);
  const line = h("div.figures-line", {}, parts.map((part) => h("span", {}, part)));
  return h("div.figures", {}, line, timing);
}

function timingOf(figures) {
  const shown = PARTS.map(([name, label]) => ({ name, label, ms: figures[`${name}_ms`] ?? 0 })).filter(({ ms }) => ms >= LEAST_LOAD_MS);
  if (!shown.length) return null;
  const hasSwitched = (figures.load_ms ?? 0) >= LEAST_LOAD_MS && figures.num_tokens > 0;
  const bar = h("span.timing-bar", { "aria-hidden": "true" });
  for (const { name, ms } of shown) {
    const part = h("i", { "data-part": name });
    part.style.flexGrow = String(ms);
    bar.append(part);
  }
  const words = shown.map(({ name, label, ms }) => h("span.timing-part", { "data-part": name }, `${label} ${secondsInWords(ms)}`));
  return h("div.timing", { "data-switched": hasSwitched }, bar, h("span.timing-words", {}, hasSwitched && h("b", {}, "Switched"), words));
}
