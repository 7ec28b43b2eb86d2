// One answer while it comes: the request, its deltas, its figures. Knows no page and no conversation.
// Invariant: `message` always holds all that has come; `onChange` may be called for each token, so its receiver must draw only once per frame.

import { ApiError } from "../lib/api.js";
import { newId } from "./conversation.js";
import { readStream, stopStream } from "./resumable.js";
import { Times } from "./times.js";

const BEGINNING = 64; // characters at the start in which a tag may open the reasoning
const COMMENT_EVERY_S = 0.25; // while it waits; the router's default of 3 s is too slow to watch

export const RECONNECTING = "reconnecting"; // in `message.wait`

/** Fills `message` ({content, reasoning, thought_ms, toolCalls, figures, error, isStopped, wait}); resolves when the answer has ended or failed.
 * `id`: of its stream. `request` null: it was started before this page was loaded; false if the server does not have it any more. */
export async function runAnswer(api, id, request, message, { signal, onChange }) {
  const times = new Times();
  const state = { raw: "", split: { reasoning: "", content: "", isOpen: false }, thought: "", calls: new Map(), num: 0, prompt: null, usage: null, timings: null, finish: null, headers: null };
  const stored = request ? null : { ...message.figures };
  const body = request && { ...request, stream: true, stream_options: { include_usage: true }, return_progress: true, sse_ping_interval: COMMENT_EVERY_S };
  const onOpen = (headers) => {
    state.headers = headers;
    if (message.wait === RECONNECTING) delete message.wait;
  };
  const onEvent = (event) => {
    take(state, event, message, times);
    message.figures = withStored(liveFigures(state, times), stored);
    onChange();
  };
  const onLost = () => {
    message.wait = RECONNECTING;
    onChange();
  };
  const onComment = (text) => {
    times.wait(text);
    if (times.first || (state.prompt && text === "prefill")) return; // the progress tells more
    message.wait = text;
    onChange();
  };
  try {
    await readStream(api, id, body, { signal, onLost, onOpen, onEvent, onComment });
    if (state.finish === "length") message.isCut = true;
  } catch (error) {
    if (error.name === "AbortError") stopStream(api, id).catch(() => {}); // offline: it ends by itself
    else if (!request && !state.headers) {
      delete message.wait;
      return false;
    }
    if (error.name === "AbortError" || error.type === "cancelled_error") message.isStopped = true; // the other: by another tab
    else message.error = { message: error.message, type: error.type ?? "server_error", log: error.log ?? [] };
  }
  times.end();
  delete message.wait;
  delete message.isThinking;
  if (message.reasoning) message.thought_ms = thoughtOf(message, times);
  message.figures = withStored(finalFigures(state, times), stored, state.timings);
  const tokens = state.usage?.prompt_tokens_details?.media_tokens;
  if (tokens) message.media_tokens = tokens;
  onChange();
  return true;
}

/** Of an answer that began before this page was loaded: times that the page would measure are wrong, those that were stored are right. */
function withStored(figures, stored, timings = null) {
  if (!stored) return figures;
  const { ttft_ms, per_second, ...rest } = figures;
  return { ...rest, ...(stored.ttft_ms ? { ttft_ms: stored.ttft_ms } : {}), ...(timings && per_second ? { per_second } : {}) };
}

const thoughtOf = (message, times) => Math.max(message.thought_ms ?? 0, times.thought_ms); // it may have begun before this page was loaded

function take(state, event, message, times) {
  if (event.error) throw new ApiError(event.error.code, event.error);
  if (event.usage) state.usage = event.usage;
  if (event.timings) state.timings = event.timings;
  if (event.prompt_progress) takeProgress(state, event.prompt_progress, message, times);
  const choice = event.choices?.[0];
  if (!choice) return;
  state.finish = choice.finish_reason ?? state.finish;
  const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta ?? {};
  if (!content && !reasoning && !calls?.length) return;
  state.num += 1;
  delete message.wait;
  if (reasoning) state.thought += reasoning;
  if (content) takeText(state, content);
  if (calls) message.toolCalls = addCalls(state.calls, calls);
  message.content = state.split.content;
  message.isThinking = state.split.isOpen || (Boolean(reasoning) && !content && !calls);
  times.token(message.isThinking);
  const thought = state.thought + state.split.reasoning;
  if (!thought) return;
  message.reasoning = thought;
  message.thought_ms = thoughtOf(message, times);
}

/** Of reading the prompt: {total, cache, processed} tokens. */
function takeProgress(state, progress, message, times) {
  state.prompt = progress;
  times.wait("prefill");
  if (!times.first && progress.total) message.wait = `prefill ${Math.floor((100 * progress.processed) / progress.total)}%`;
}

/** The whole text is searched only if a tag may have ended. */
function takeText(state, text) {
  state.raw += text;
  if (state.raw.length < BEGINNING || text.includes(">")) state.split = splitThinking(state.raw);
  else if (state.split.isOpen) state.split.reasoning += text;
  else state.split.content += text;
}

/** A `<think>` block at the beginning, also one that the prompt has opened. */
export function splitThinking(text) {
  const start = /^\s*<think>/.exec(text)?.[0].length ?? 0;
  const end = text.indexOf(start ? "</think>" : "\n</think>");
  if (!start && end < 0) return { reasoning: "", content: text, isOpen: false };
  if (end < 0) return { reasoning: text.slice(start).trimStart(), content: "", isOpen: true };
  return { reasoning: text.slice(start, end).trim(), content: text.slice(text.indexOf(">", end) + 1).trimStart(), isOpen: false };
}

/** `calls`: by index. The id comes with the first piece of a call; if it never comes, it is made here, because the result must name it. */
function addCalls(calls, deltas) {
  for (const { index = 0, id, function: called = {} } of deltas) {
    if (!calls.has(index)) calls.set(index, { id: id || `call_${newId()}`, name: "", arguments: "" });
    const call = calls.get(index);
    call.name += called.name ?? "";
    call.arguments += called.arguments ?? "";
  }
  return [...calls.values()];
}

function liveFigures(state, times) {
  const { prompt, num } = state;
  const per_second = times.speedOf(num);
  return {
    ...(times.first ? { ttft_ms: times.first - times.asked } : {}),
    num_tokens: num,
    ...(prompt ? { num_prompt_tokens: prompt.total, num_cached_tokens: prompt.cache } : {}),
    ...(per_second ? { per_second } : {}),
  };
}

/** The router's figures if there are any; otherwise what the page has measured: the router sends none for a stopped answer. */
function finalFigures(state, times) {
  const { usage, timings } = state;
  const figures = { ...liveFigures(state, times), ...times.figures() };
  if (usage) Object.assign(figures, { num_tokens: usage.completion_tokens, num_prompt_tokens: usage.prompt_tokens, num_cached_tokens: usage.prompt_tokens_details?.cached_tokens ?? 0 });
  if (timings?.predicted_per_second) figures.per_second = timings.predicted_per_second;
  // Headers that were sent with the first comment tell less than the last chunk, and less than the page knows.
  const header = readServerTiming(state.headers?.get("server-timing") ?? "");
  const known = header.prefill === undefined ? {} : header;
  const parts = {
    queue_ms: timings?.queue_ms ?? known.queue,
    load_ms: timings?.load_ms ?? known.load,
    prefill_ms: timings?.prompt_ms ?? known.prefill,
    decode_ms: timings?.predicted_ms,
  };
  for (const [name, value] of Object.entries(parts)) if (Number.isFinite(value)) figures[name] = value;
  return figures;
}

/** {name: milliseconds} */
export function readServerTiming(value) {
  const found = [...value.matchAll(/([\w-]+);dur=([\d.]+)/g)];
  return Object.fromEntries(found.map(([, name, duration]) => [name, Number(duration)]));
}
