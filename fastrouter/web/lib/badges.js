// What a model can do, as small words beside its name. Knows no page.
// Invariant: only what the listing says; a model that it says nothing of has no badges.

import { h } from "./dom.js";

const BADGES = {
  chat: "It was made to chat: it has a chat template",
  tools: "It can call tools",
  thinking: "It can think before it answers",
  vision: "It sees pictures",
  audio: "It hears sound",
  embedding: "It turns texts into vectors",
  rerank: "It sorts texts by how well they fit a question",
};

export const badgesOf = (model) => Object.keys(BADGES).filter((name) => model.capabilities?.includes(name));

/** An element, or null where there is nothing to say. */
export function badges(model) {
  const names = badgesOf(model);
  return names.length ? h("span.badges", {}, names.map((name) => h("span.badge", { "data-can": name, "data-tip": BADGES[name] }, name))) : null;
}

/** Into an element that stays; drawn only after a change, so that a tip that is shown stays where it is. */
export function showBadges(holder, model) {
  const shown = badgesOf(model).join(" ");
  if (holder.dataset.shown === shown) return;
  holder.dataset.shown = shown;
  holder.hidden = !shown;
  holder.replaceChildren(badges(model) ?? "");
}
