// Numbers and models in words, the same on the whole page.

const NUMBER = new Intl.NumberFormat("en");

export const inWords = (number) => NUMBER.format(Math.round(number));

export function bytesInWords(bytes) {
  if (!bytes) return "";
  const units = ["bytes", "KB", "MB", "GB", "TB"];
  const power = Math.min(Math.floor(Math.log(bytes) / Math.log(1000)), units.length - 1);
  const value = bytes / 1000 ** power;
  return `${value < 10 && power > 1 ? value.toFixed(1) : Math.round(value)} ${units[power]}`;
}

export function secondsInWords(ms) {
  if (ms < 1) return "0 ms";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 10_000 ? `${(ms / 1000).toFixed(2)} s` : `${(ms / 1000).toFixed(1)} s`;
}

/** 135M, 7.2B */
export function parametersInWords(num) {
  if (!num) return "";
  if (num >= 1e9) return `${(num / 1e9).toFixed(num < 1e10 ? 1 : 0)}B`;
  return num >= 1e6 ? `${Math.round(num / 1e6)}M` : `${Math.max(1, Math.round(num / 1e3))}K`;
}

export function contextInWords(num) {
  if (!num) return "";
  return num >= 1024 ? `${Math.round(num / 1024)}k` : String(num);
}

/** What a model is, from its listing: parts to join. */
export function traitsOf(model) {
  const meta = model.meta ?? {};
  const context = meta.n_ctx ?? meta.n_ctx_train;
  return [parametersInWords(meta.n_params), (meta.ftype ?? "").replace(/^all /, ""), bytesInWords(meta.size), context ? `${contextInWords(context)} context` : ""].filter(Boolean);
}

const STATES = { loaded: "in memory", loading: "loading", sleeping: "sleeping", unloaded: "not loaded", downloading: "downloading", failed: "failed" };

export const stateInWords = (state, percent = null) => (percent === null ? STATES[state] : `${STATES[state]} ${percent}%`);
