// The effective settings of a model, loaded or not; reading them does not load it.

import { h, iconButton } from "../lib/dom.js";
import { inWords } from "../lib/words.js";

const RANDOM_SEED = 2 ** 32 - 1;

export async function showSettings(panel, id, api) {
  panel.replaceChildren(h("p.room-none", {}, "Asking …"));
  const name = encodeURIComponent(id);
  const [entry, props] = await Promise.all([api.get(`v1/models/${name}`), api.get(`props?model=${name}`)].map((asked) => asked.catch((error) => error)));
  if (!panel.isConnected || panel.querySelector(".room-log")) return; // another tab was chosen meanwhile
  const parts = [entry, props].map((answer) => (answer instanceof Error ? h("p.room-error", {}, answer.message) : null));
  const isHere = !(props instanceof Error);
  if (isHere) parts.push(h("p.room-traits", {}, props.is_loaded ? "Reported by its worker." : "These apply when it is loaded."));
  if (!(entry instanceof Error)) parts.push(commandLine(entry.status.args));
  if (isHere) parts.push(...figures(props));
  panel.replaceChildren(...parts.filter(Boolean));
}

function commandLine(args) {
  if (!args?.length) return h("p.room-traits", {}, "No flag is set for it: it uses the defaults of llama.cpp and of its file.");
  const text = args.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(" ");
  const copy = iconButton("copy", "Copy the flags", () => navigator.clipboard?.writeText(text), { class: "icon-button small" });
  return h("div.room-args", {}, h("code", {}, text), copy);
}

function figures(props) {
  const { params = {}, n_ctx } = props.default_generation_settings ?? {};
  const rows = [["Context of a request", n_ctx && `${inWords(n_ctx)} tokens`], ["Trained with", props.n_ctx_train && `${inWords(props.n_ctx_train)} tokens`], ["Slots", props.total_slots], ["File", props.model_path]];
  const table = (pairs) => h("dl.room-settings", {}, pairs.flatMap(([term, value]) => [h("dt", {}, term), h("dd", {}, value)]));
  const known = rows.filter(([, value]) => value !== undefined && value !== null && value !== "").map(([term, value]) => [term, String(value)]);
  const sampling = Object.entries(params).filter(([, value]) => value !== null && value !== "" && !(Array.isArray(value) && !value.length) && typeof value !== "function");
  const parts = known.length ? [table(known)] : [];
  if (sampling.length) parts.push(h("h5", {}, "Sampling, unless a request sets it"), table(sampling.map(([term, value]) => [term, wordsOf(term, value)])));
  if (props.chat_template) parts.push(h("details.room-template", {}, h("summary", {}, "Chat template"), h("pre", { tabindex: "0" }, props.chat_template)));
  return parts;
}

function wordsOf(term, value) {
  if (term === "seed" && (value === -1 || value === RANDOM_SEED)) return "random";
  if (Array.isArray(value)) return value.map((each) => (typeof each === "string" ? each.replaceAll("\n", "\\n") : JSON.stringify(each))).join(" › ");
  if (typeof value === "number" && !Number.isInteger(value)) return String(Number(value.toPrecision(6)));
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
