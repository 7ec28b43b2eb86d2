// Changes of state and usage as a history: spans, loads, activity.

const IN_MEMORY = new Set(["loading", "loaded", "sleeping"]);
const MAX_SAMPLES = 3600;

/** By model: {spans: [{state, from, to}], marks: [{time, change, took_s}]}. `usage` says what is there now, because the past may not include it.
    `isVariant(id)`: events of a variant belong to its base. */
export function readPast(past, usage, now, isVariant = () => false) {
  const lanes = new Map();
  const open = new Map();
  const laneOf = (id) => lanes.get(id) ?? lanes.set(id, { spans: [], marks: [] }).get(id);
  for (const change of past) {
    if (!["loading", "loaded", "sleeping", "unloaded"].includes(change.status) || isVariant(change.model)) continue;
    const before = open.get(change.model);
    if (before?.state === change.status) continue; // a snapshot repeats it
    if (!before && change.status === "unloaded" && !change.failed) continue; // a snapshot of a model that was not in memory
    const lane = laneOf(change.model);
    if (before) before.to = change.time;
    const took_s = change.status === "loaded" && before?.state === "loading" ? change.time - before.from : null;
    lane.marks.push({ time: change.time, change, took_s });
    open.delete(change.model);
    if (IN_MEMORY.has(change.status)) {
      const span = { state: change.status, from: change.time, to: now };
      lane.spans.push(span);
      open.set(change.model, span);
    }
  }
  for (const { model, status } of usage?.models ?? []) {
    if (IN_MEMORY.has(status) && !open.has(model)) laneOf(model).spans.push({ state: status, from: -Infinity, to: now });
  }
  return lanes;
}

/** Tokens per second and activity, a sample for each `usage`. */
export class Samples {
  times = [];
  #rates = new Map(); // by model, as many as `times`
  #busy = new Map(); // by model, [from, to] of each time it had requests

  add(usage) {
    const before = this.times.at(-1) ?? usage.time - 1;
    if (usage.time <= before) return;
    this.times.push(usage.time);
    const rates = new Map(usage.models.map((model) => [model.model, model.tokens_per_s]));
    for (const id of new Set([...this.#rates.keys(), ...rates.keys()])) {
      const known = this.#rates.get(id) ?? new Array(this.times.length - 1).fill(0);
      known.push(rates.get(id) ?? 0);
      this.#rates.set(id, known);
    }
    for (const { model, running, tokens_per_s } of usage.models) {
      if (running || tokens_per_s) this.#extend(model, Math.max(before, usage.time - 2), usage.time);
    }
    if (this.times.length > MAX_SAMPLES) {
      this.times.shift();
      for (const known of this.#rates.values()) known.shift();
    }
  }

  #extend(id, from, to) {
    const times = this.#busy.get(id) ?? this.#busy.set(id, []).get(id);
    if (times.length && times.at(-1)[1] >= from) times.at(-1)[1] = to;
    else times.push([from, to]);
  }

  busyOf(id) {
    return this.#busy.get(id) ?? [];
  }

  /** [times, {id, rates} ...] since then, of models that made any tokens. */
  since(time) {
    const first = Math.max(0, this.times.findIndex((at) => at >= time) - 1);
    const series = [...this.#rates].map(([id, known]) => ({ id, rates: known.slice(first) })).filter(({ rates }) => rates.some(Boolean));
    return { times: this.times.slice(first), series };
  }
}
