// How many tokens a picture or a sound costs, before it is sent. Knows no page.
// Invariant: it loads no model; a server that cannot tell costs nothing but the question.

import { filled } from "./media_parts.js";

/** Tokens, or null. `kind`: picture or sound. */
export async function costOf(api, model, kind, url) {
  if (model?.status.value !== "loaded") return null;
  const countOf = async (parts) => (await api.post("v1/chat/completions/input_tokens", { model: model.id, messages: await filled([{ role: "user", content: parts }], { dataUrlOf: () => url }) })).input_tokens;
  const text = { type: "text", text: "a" };
  try {
    const [whole, rest] = await Promise.all([countOf([{ type: kind, id: "" }, text]), countOf([text])]);
    return whole > rest ? whole - rest : null;
  } catch {
    return null;
  }
}
