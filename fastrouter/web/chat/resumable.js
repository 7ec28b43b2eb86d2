// The stream of one answer. The server goes on with it while this page is offline or is loaded again. Knows no message.
// Invariant: each event is read once, in order; only `stopStream` ends the answer in the server.

import { ApiError } from "../lib/api.js";

const FIRST_WAIT_MS = 250; // between two attempts
const LONGEST_WAIT_MS = 8_000;
const GIVE_UP_MS = 300_000; // without a new event; the server keeps a complete answer as long
const SILENCE_MS = 20_000; // the server sends a comment long before: the connection is dead, although the browser does not know it
const LOST = ["incomplete", "unreachable"];

const addressOf = (id, more = {}) => `v1/stream?${new URLSearchParams({ conv_id: id, ...more })}`;

/** Starts it with `body`; null: one that this page has started before. `onLost()`: the connection is gone, it will be tried again. */
export async function readStream(api, id, body, { signal, onLost, ...handlers }) {
  const place = { taken: 0 }; // bytes
  let lost = null;
  if (body) {
    lost = await read(api, "v1/chat/completions", body, { "X-Conversation-Id": id }, place, signal, handlers);
    if (lost?.type !== LOST[0]) return finish(lost);
  }
  return resume(api, id, place, lost, { signal, onLost, handlers });
}

async function resume(api, id, place, lost, { signal, onLost, handlers }) {
  let wait_ms = FIRST_WAIT_MS;
  let last = { taken: place.taken, at: performance.now() };
  for (;;) {
    const error = await read(api, addressOf(id, { from: place.taken, wait: 1 }), undefined, {}, place, signal, handlers);
    if (!LOST.includes(error?.type)) return finish(error?.status === 404 ? (lost ?? error) : error);
    if (place.taken > last.taken) {
      last = { taken: place.taken, at: performance.now() };
      wait_ms = FIRST_WAIT_MS;
    } else if (performance.now() - last.at > GIVE_UP_MS) throw lost ?? error;
    onLost();
    await pause(wait_ms, signal);
    wait_ms = Math.min(2 * wait_ms, LONGEST_WAIT_MS);
  }
}

/** Nothing happens when there is none. */
export const stopStream = (api, id) => api.delete(addressOf(id));

/** One connection. Returns the ApiError by which it ended; null if the answer is complete. */
async function read(api, path, body, headers, place, signal, handlers) {
  const start = place.taken;
  const silence = new AbortController();
  let heard = Infinity; // nothing can be heard before it is open
  const hear = (act) => (...given) => {
    heard = performance.now();
    act(...given);
  };
  const heardOnes = Object.fromEntries(Object.entries(handlers).map(([name, act]) => [name, hear(act)]));
  const timer = setInterval(() => {
    if (performance.now() - heard > SILENCE_MS) silence.abort(new ApiError(0, { message: "The connection was lost", type: LOST[0] }));
  }, SILENCE_MS / 4);
  const onTaken = (num_bytes) => {
    place.taken = start + num_bytes;
  };
  try {
    await api.stream(path, body, { ...heardOnes, onTaken, headers, signal: AbortSignal.any?.([signal, silence.signal]) ?? signal });
    return null;
  } catch (error) {
    if (error instanceof ApiError) return error;
    throw error;
  } finally {
    clearInterval(timer);
  }
}

function finish(error) {
  if (error) throw error;
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}
