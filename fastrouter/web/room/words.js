// Events of models in words.

import { causeInWords } from "../failures.js";
import { bytesInWords } from "../lib/words.js";

export const clockOf = (time) => new Date(time * 1000).toLocaleTimeString("en-GB");

const REASONS = {
  count: "left: its place was needed",
  memory: "left: its memory was needed",
  ttl: "left: no request came for a while",
  unload: "unloaded",
  reload: "left: its source has changed",
  crash: "its worker ended; another one takes over",
};

/** A change of state; `took_s`: how long a load took, if known. */
export function changeInWords({ status, reason, failed, error }, took_s = null) {
  if (failed) return `failed: ${causeInWords(error) ?? "no reason was given"}`;
  if (status === "unloaded") return REASONS[reason] ?? "unloaded";
  if (status === "loaded" && took_s !== null) return `loaded in ${durationInWords(took_s)}`;
  return status === "sleeping" ? "fell asleep: its memory is free" : status;
}

export function durationInWords(seconds) {
  if (seconds < 0.0995) return `${Math.max(1, Math.round(seconds * 1000))} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

/** What is stored of conversations whose model has left memory, or may leave. */
export function parkedInWords({ parked }) {
  if (!parked?.entries) return "";
  return `${parked.entries === 1 ? "1 conversation" : `${parked.entries} conversations`} parked (${bytesInWords(parked.bytes)})`;
}

/** The evictions that a load would cause. */
export function leavingInWords({ evict = [], action, why }) {
  if (action === "refuse") return why;
  const names = evict.map(({ model }) => model ?? "another model");
  if (names.length) return `${names.join(" and ")} would leave`;
  return action === "wait" ? "has to wait: all others are busy" : "";
}
