// What models do by themselves: sampling and context, asked once per load. Knows no conversation.
// Invariant: asking loads and wakes nothing.

export class Defaults {
  #api;
  #known = new Map(); // {key, params, n_ctx} by model id

  constructor(api) {
    this.#api = api;
  }

  /** Sampling by field name, as far as it is known. */
  async of(model) {
    try {
      return { ...(await this.#look(model)).params };
    } catch {
      return {}; // a model that does not answer just now has no placeholders
    }
  }

  /** Tokens of its context, or null. Exact once the model is loaded and was looked at. */
  contextOf(model) {
    const known = this.#known.get(model.id);
    if (model.status.value === "loaded" && known?.state !== "loaded") this.#look(model).catch(() => {});
    return known?.n_ctx ?? model.meta?.n_ctx ?? model.meta?.n_ctx_train ?? null;
  }

  async #look(model) {
    const state = model.status.value;
    const known = this.#known.get(model.id);
    if (known?.state === state) return known;
    const entry = { state, params: {}, n_ctx: known?.n_ctx ?? null };
    this.#known.set(model.id, entry); // also while it is asked, so that it is asked once
    const { default_generation_settings: settings } = await this.#api.get(`props?model=${encodeURIComponent(model.id)}`);
    entry.params = settings?.params ?? {};
    entry.n_ctx = settings?.n_ctx || null;
    return entry;
  }
}
