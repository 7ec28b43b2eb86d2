// Talks to the router that sent this page: JSON calls, streamed answers, event streams, the API key.
// Invariant: every failure is an ApiError; without a valid key the user is asked, and the call continues.

import { readEvents } from "./sse.js";

const KEY_NAME = "fastrouter.key";
const LONGEST_WAIT_MS = 10_000; // between two attempts to connect to an event stream

export class ApiError extends Error {
  constructor(status, error = {}) {
    super(error.message || `The server answered ${status}`);
    this.status = status;
    this.type = error.type ?? "server_error";
    this.code = error.code ?? status;
    this.log = Array.isArray(error.log) ? error.log : [];
  }
}

class Api {
  #base = new URL("../", import.meta.url);
  #askForKey = async () => null;
  #asking = null;

  /** `askForKey(isWrong)` resolves with a key, or null when the user declines. */
  set askForKey(ask) {
    this.#askForKey = ask;
  }

  get(path) {
    return this.#json("GET", path);
  }

  post(path, body = {}, signal = undefined) {
    return this.#json("POST", path, body, signal);
  }

  delete(path) {
    return this.#json("DELETE", path);
  }

  /** POST, or GET without a body, that answers with server-sent events: `onOpen(headers)`, `onEvent(json)`, `onComment(text)`, `onTaken(num_bytes)`;
   * resolves after the last one. */
  async stream(path, body, { signal, headers = {}, onOpen = () => {}, onEvent = () => {}, onComment = () => {}, onTaken = null } = {}) {
    const response = await this.#fetch(body === undefined ? "GET" : "POST", path, body, signal, headers);
    onOpen(response.headers);
    let isDone = false;
    const onData = (data) => {
      if (data === "[DONE]") isDone = true;
      else onEvent(JSON.parse(data));
    };
    await reaching(() => readEvents(response.body, { onData, onComment, onTaken }), INCOMPLETE);
    if (!isDone) throw new ApiError(0, INCOMPLETE);
  }

  /** A stream of server-sent events, for as long as `signal` allows; it connects again by itself and calls `onOpen` and `onLost`. */
  async events(path, { signal, onEvent, onOpen = () => {}, onLost = () => {} }) {
    let wait_ms = 250;
    while (!signal?.aborted) {
      try {
        const response = await this.#fetch("GET", path, undefined, signal, { Accept: "text/event-stream" });
        onOpen();
        wait_ms = 250;
        await readEvents(response.body, { onData: (data) => onEvent(JSON.parse(data)) });
      } catch (error) {
        if (signal?.aborted) return;
        if (error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
      }
      if (signal?.aborted) return;
      onLost();
      await new Promise((resolve) => setTimeout(resolve, wait_ms));
      wait_ms = Math.min(2 * wait_ms, LONGEST_WAIT_MS);
    }
  }

  async #json(method, path, body, signal) {
    const response = await this.#fetch(method, path, body, signal);
    return response.status === 204 ? null : reaching(() => response.json());
  }

  async #fetch(method, path, body, signal, more = {}) {
    const url = new URL(path.replace(/^\//, ""), this.#base);
    for (;;) {
      const key = localStorage.getItem(KEY_NAME);
      const headers = { ...more };
      if (body !== undefined) headers["Content-Type"] = "application/json";
      if (key) headers.Authorization = `Bearer ${key}`;
      const init = { method, headers, signal, cache: "no-store", body: body === undefined ? undefined : JSON.stringify(body) };
      const response = await reaching(() => fetch(url, init));
      if (response.ok) return response;
      const error = await errorOf(response);
      if (response.status !== 401 || !(await this.#newKey(key))) throw error;
    }
  }

  /** One dialog for all waiting calls; true when there is another key than the refused one. */
  async #newKey(refused) {
    if (localStorage.getItem(KEY_NAME) !== refused) return true;
    this.#asking ??= this.#askForKey(Boolean(refused)).finally(() => {
      this.#asking = null;
    });
    const key = await this.#asking;
    if (key) localStorage.setItem(KEY_NAME, key);
    return Boolean(key);
  }
}

const UNREACHABLE = { message: "The server cannot be reached", type: "unreachable" };
const INCOMPLETE = { message: "The answer ended too early", type: "incomplete" };

async function reaching(act, otherwise = UNREACHABLE) {
  try {
    return await act();
  } catch (error) {
    if (error instanceof TypeError) throw new ApiError(0, otherwise); // fetch and its body throw this for a lost connection
    throw error;
  }
}

async function errorOf(response) {
  try {
    return new ApiError(response.status, (await response.json()).error);
  } catch {
    return new ApiError(response.status);
  }
}

export const api = new Api();
