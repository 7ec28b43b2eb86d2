// The stream of one answer. The server goes on with it while this page is offline or is loaded again. Knows no message.
// Invariant: each event is read once, in order; only `stopStream` ends the answer in the server.

import { ApiError } from "../lib/api.js";

const FIRST_WAIT_MS = 250; // between two attempts
const LONGEST_WAIT_MS = 8_000;
const GIVE_UP_MS = 300_000; // without a new event; the server keeps a complete answer as long
const LOST = ["incomplete", "unreachable"];

const addressOf = (id, more = {}) => `v1/stream?${new URLSearchParams({ conv_id: id, ...more })}`;

/** Starts it with `body`; null: one that this page has started before. `onLost()`: the connection is gone, it will be tried again. */
export async function readStream(api, id, body, { signal, onLost, ...handlers }) {
  const place = { taken: 0 }; // bytes
  let lost = null;
  if (body) {
    lost = await endOf(api.stream("v1/chat/completions", body, { ...follow(place, handlers), signal, headers: { "X-Conversation-Id": id } }));
    if (lost?.type !== LOST[0]) return finish(lost);
  }
  return resume(api, id, place, lost, { signal, onLost, handlers });
}

async function resume(api, id, place, lost, { signal, onLost, handlers }) {
  let wait_ms = FIRST_WAIT_MS;
  let last = { taken: place.taken, at: performance.now() };
  for (;;) {
    const error = await endOf(api.stream(addressOf(id, { from: place.taken, wait: 1 }), undefined, { ...follow(place, handlers), signal }));
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

function follow(place, handlers) {
  const start = place.taken;
  return { ...handlers, onTaken: (num_bytes) => { place.taken = start + num_bytes; } };
}

/** The ApiError by which it ended; null if it is complete. */
async function endOf(stream) {
  try {
    await stream;
    return null;
  } catch (error) {
    if (error instanceof ApiError) return error;
    throw error;
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
