// All models and their states, kept current by the router's events.
// Invariant: one listing for each connection or change of the catalogue, no polling; a `change` follows each change.

const MAX_PAST = 400;
const CATALOGUE_EVENTS = new Set(["models_reload", "download_finished", "download_failed", "model_remove"]);

/** Events: `change` (detail.ids), `happened` (detail: the raw {model, event, data}), `connection` (detail.isOpen). */
export class Models extends EventTarget {
  #api;
  #models = new Map();
  #listing = null;
  #isStale = false; // the listing that was asked for may be older than an event
  #ahead_s = 0; // how much this clock is ahead of the router's

  constructor(api) {
    super();
    this.#api = api;
    this.isKnown = false; // the first listing has come
    this.isConnected = false;
    this.isRefused = false; // the router wants a key, and the user gave none
    this.usage = null; // what the models in memory do, once a second, see the router's documentation of its events
    this.past = []; // changes of state {time, model, status, reason, ...}, the oldest first, by the router's clock; also those before this page
  }

  /** Seconds by the router's clock. */
  now() {
    return Date.now() / 1000 - this.#ahead_s;
  }

  /** Runs until `signal` aborts. Rejects when the router refuses. */
  async start(signal) {
    this.isRefused = false;
    try {
      await this.#follow(signal);
    } catch (error) {
      this.isRefused = error.status === 401;
      this.#changed([]);
      throw error;
    }
  }

  #follow(signal) {
    return this.#api.events("models/sse?usage=1", {
      signal,
      onOpen: () => this.#connect(true),
      onLost: () => this.#connect(false),
      onEvent: (event) => this.#happened(event),
    });
  }

  list() {
    return [...this.#models.values()];
  }

  /** By id or alias. */
  get(id) {
    return this.#models.get(id) ?? this.list().find((model) => model.aliases.includes(id));
  }

  /** Uses the process of another model, with other defaults. */
  isVariant(id) {
    return Boolean(this.#models.get(id)?.status.base);
  }

  /** The listing as it is now. One that was asked for before may be too old, so it is asked for again. */
  refresh() {
    this.#isStale = true;
    this.#listing ??= this.#list().finally(() => {
      this.#listing = null;
    });
    return this.#listing;
  }

  async #list() {
    let listing;
    while (this.#isStale) {
      this.#isStale = false;
      listing = await this.#api.get("models");
    }
    const ids = new Set(this.#models.keys());
    const pinned = new Map(this.list().map((model) => [model.id, model.pinned]));
    this.#models = new Map(listing.data.map((entry) => [entry.id, { aliases: [], spellings: [], tags: [], ...entry, pinned: pinned.get(entry.id) ?? false }]));
    for (const id of this.#models.keys()) ids.add(id);
    this.isKnown = true;
    this.#changed([...ids]);
  }

  /** What the listing does not say about a model in memory: pinned, memory, running and waiting requests. */
  async look(id) {
    const entry = await this.#api.get(`v1/models/${encodeURIComponent(id)}`);
    this.#update(id, { pinned: entry.usage?.pinned ?? false, usage: entry.usage });
    return entry;
  }

  async pin(id, isPinned) {
    await this.#api.post("models/pin", { model: id, pin: isPinned });
    this.#update(id, { pinned: isPinned });
  }

  load(id) {
    return this.#api.post("models/load", { model: id });
  }

  unload(id) {
    return this.#api.post("models/unload", { model: id });
  }

  #connect(isOpen) {
    this.isConnected = isOpen;
    this.dispatchEvent(new CustomEvent("connection", { detail: { isOpen } }));
    if (isOpen) this.refresh().catch(() => {}); // the event stream notices and reports an unreachable router
  }

  #happened(event) {
    if (event.event === "status_change") return; // the same event as model_status under its other name
    this.#note(event);
    if (event.event === "model_status") this.#status(event.model, event.data);
    else if (event.event === "parked") this.#update(event.model, { parked: event.data });
    else if (event.event === "download_progress") this.#update(event.model, { status: { value: "downloading", progress: event.data } });
    if (CATALOGUE_EVENTS.has(event.event) || (event.event === "model_status" && this.isKnown && !this.#models.has(event.model))) {
      this.refresh().catch(() => {});
    }
    this.dispatchEvent(new CustomEvent("happened", { detail: event }));
  }

  #note({ model, event, data }) {
    if (event === "history") {
      this.past = data.events;
    } else if (event === "usage") {
      this.usage = data;
      this.#ahead_s = Date.now() / 1000 - data.time;
      for (const { model: id, pinned } of data.models) if (this.#models.has(id) && this.#models.get(id).pinned !== pinned) this.#update(id, { pinned });
    } else if (event === "model_status" && !data.progress?.value) {
      const { status, reason, failed, error } = data;
      this.past.push({ time: this.now(), model, status, reason, failed, error });
      if (this.past.length > MAX_PAST) this.past.shift();
    }
  }

  #status(id, { status: value, info, ...more }) {
    const model = this.#models.get(id);
    if (this.#listing && !more.progress?.value) this.#isStale = true;
    if (!model) return;
    // For a failed model a snapshot says only `unloaded`; the listing has the cause.
    const isNews = value !== model.status.value || Object.keys(more).length > 0;
    if (!isNews && !info) return;
    const status = { value, args: model.status.args, preset: model.status.preset, base: model.status.base, ...more };
    this.#update(id, { status, ...(info ? { meta: { ...model.meta, ...info } } : {}) });
  }

  #update(id, changes) {
    const model = this.#models.get(id);
    if (!model) return;
    if (changes.status) changes.status = { args: model.status.args, ...changes.status };
    this.#models.set(id, { ...model, ...changes });
    this.#changed([id]);
  }

  #changed(ids) {
    this.dispatchEvent(new CustomEvent("change", { detail: { ids } }));
  }
}

/** Loading in percent, or null. */
export function percentOf(model) {
  const { value, progress } = model.status;
  if (value === "loading") return progress?.value === undefined ? null : Math.round(100 * progress.value);
  if (value !== "downloading" || !progress) return null;
  const files = Object.values(progress);
  const total = files.reduce((sum, file) => sum + file.total, 0);
  return total ? Math.floor((100 * files.reduce((sum, file) => sum + file.done, 0)) / total) : 0;
}

/** It can continue a text, but was not made for chats. Unknown abilities of a model do not count against it. */
export function hasNoTemplate(model) {
  const capabilities = model.capabilities ?? [];
  return capabilities.includes("completion") && !capabilities.includes("chat");
}

/** Its GGUF file on the router's machine, or null. */
export function fileOf(model) {
  const { args = [] } = model.status;
  return args.includes("--model") ? args[args.indexOf("--model") + 1] : null;
}

/** The state in one word: llama-server says `unloaded` for a model that failed. */
export function stateOf(model) {
  return model.status.failed || (model.status.error && model.status.value === "unloaded") ? "failed" : model.status.value;
}
