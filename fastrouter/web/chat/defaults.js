// Models' own defaults: sampling and context, asked once per load. Knows no conversation.
// Invariant: a question loads no model and wakes none.

export class Defaults {
  #api;
  #asked = new Map(); // {state, answer: a promise} by model id
  #known = new Map(); // {state, params, n_ctx} by model id

  constructor(api) {
    this.#api = api;
  }

  /** Sampling by field name, as far as it is known. */
  async of(model) {
    try {
      return { ...(await this.#look(model)).params };
    } catch {
      return {}; // a model that does not answer now has no placeholders
    }
  }

  /** Tokens of its context, or null. Exact after the model was loaded and asked. */
  contextOf(model) {
    const known = this.#known.get(model.id);
    if (model.status.value === "loaded" && known?.state !== "loaded") this.#look(model).catch(() => {});
    return known?.n_ctx ?? model.meta?.n_ctx ?? model.meta?.n_ctx_train ?? null;
  }

  /** One question for each model and state, however many callers ask. */
  #look(model) {
    const state = model.status.value;
    const held = this.#asked.get(model.id);
    if (held?.state === state) return held.answer;
    const answer = this.#ask(model.id, state);
    this.#asked.set(model.id, { state, answer });
    answer.catch(() => this.#asked.delete(model.id));
    return answer;
  }

  async #ask(id, state) {
    const { default_generation_settings: settings } = await this.#api.get(`props?model=${encodeURIComponent(id)}`);
    const known = { state, params: settings?.params ?? {}, n_ctx: settings?.n_ctx || null };
    this.#known.set(id, known);
    return known;
  }
}
