// One answer on its way: the request, its deltas, its figures. Knows no page and no conversation.
// Invariant: `message` always holds all that has come; `onChange` may be called per token, so whoever draws must do so per frame.

import { ApiError } from "../lib/api.js";

const BEGINNING = 64; // characters in which a tag may stand that opens the reasoning
const COMMENT_EVERY_S = 0.25; // of a wait; what the router's default, 3 s, is too slow to watch

/** Fills `message` ({content, reasoning, toolCalls, figures, error, isStopped, wait}); resolves when it has ended, however it did. */
export async function runAnswer(api, request, message, { signal, onChange }) {
  const asked = performance.now();
  const state = { raw: "", split: { reasoning: "", content: "", isOpen: false }, thought: "", first: 0, last: 0, num: 0, prompt: null, usage: null, timings: null, finish: null, headers: null };
  const body = { ...request, stream: true, stream_options: { include_usage: true }, return_progress: true, sse_ping_interval: COMMENT_EVERY_S };
  const onEvent = (event) => {
    take(state, event, message);
    message.figures = liveFigures(state, asked);
    onChange();
  };
  const onComment = (text) => {
    if (state.first || (state.prompt && text === "prefill")) return; // its progress says more
    message.wait = text;
    onChange();
  };
  try {
    const { headers } = await api.stream("v1/chat/completions", body, { signal, onEvent, onComment });
    state.headers = headers;
    if (state.finish === "length") message.isCut = true;
  } catch (error) {
    if (error.name === "AbortError") message.isStopped = true;
    else message.error = { message: error.message, type: error.type ?? "server_error", log: error.log ?? [] };
  }
  delete message.wait;
  message.figures = finalFigures(state, asked);
  onChange();
}

function take(state, event, message) {
  if (event.error) throw new ApiError(event.error.code, event.error);
  if (event.usage) state.usage = event.usage;
  if (event.timings) state.timings = event.timings;
  if (event.prompt_progress) takeProgress(state, event.prompt_progress, message);
  const choice = event.choices?.[0];
  if (!choice) return;
  state.finish = choice.finish_reason ?? state.finish;
  const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta ?? {};
  if (!content && !reasoning && !calls) return;
  state.last = performance.now();
  state.first ||= state.last;
  state.num += 1;
  delete message.wait;
  if (reasoning) state.thought += reasoning;
  if (content) takeText(state, content);
  if (calls) message.toolCalls = addCalls(message.toolCalls ?? [], calls);
  message.content = state.split.content;
  const thought = state.thought + state.split.reasoning;
  if (thought) message.reasoning = thought;
  message.isThinking = state.split.isOpen || Boolean(reasoning);
}

/** Of reading the prompt: {total, cache, processed} tokens. */
function takeProgress(state, progress, message) {
  state.prompt = progress;
  if (!state.first && progress.total) message.wait = `prefill ${Math.floor((100 * progress.processed) / progress.total)}%`;
}

/** The whole text is looked at only where a tag may have ended. */
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

function addCalls(calls, deltas) {
  for (const { index = 0, function: called = {} } of deltas) {
    calls[index] ??= { name: "", arguments: "" };
    calls[index].name += called.name ?? "";
    calls[index].arguments += called.arguments ?? "";
  }
  return calls;
}

function liveFigures(state, asked) {
  const seconds = (state.last - state.first) / 1e3;
  return {
    ...(state.first ? { ttft_ms: state.first - asked } : {}),
    num_tokens: state.num,
    ...(state.prompt ? { num_prompt_tokens: state.prompt.total, num_cached_tokens: state.prompt.cache } : {}),
    ...(seconds > 0.25 ? { per_second: (state.num - 1) / seconds } : {}),
  };
}

/** What the router says, where it has; what we have seen, where it has not. */
function finalFigures(state, asked) {
  const figures = liveFigures(state, asked);
  const { usage, timings } = state;
  const header = readServerTiming(state.headers?.get("server-timing") ?? "");
  if (usage) Object.assign(figures, { num_tokens: usage.completion_tokens, num_prompt_tokens: usage.prompt_tokens, num_cached_tokens: usage.prompt_tokens_details?.cached_tokens ?? 0 });
  if (timings?.predicted_per_second) figures.per_second = timings.predicted_per_second;
  // A head that went out with the first comment knows less than the last chunk does.
  const parts = {
    queue_ms: timings?.queue_ms ?? header.queue,
    load_ms: timings?.load_ms ?? header.load,
    prefill_ms: timings?.prompt_ms ?? header.prefill,
    decode_ms: timings?.predicted_ms ?? (state.first ? state.last - state.first : undefined),
  };
  for (const [name, value] of Object.entries(parts)) if (Number.isFinite(value)) figures[name] = value;
  return figures;
}

/** {name: milliseconds} */
export function readServerTiming(value) {
  const found = [...value.matchAll(/([\w-]+);dur=([\d.]+)/g)];
  return Object.fromEntries(found.map(([, name, duration]) => [name, Number(duration)]));
}
