// What a button without words does, shown beside it while the pointer or the keyboard is on it.
// Invariant: at most one tip is shown, Escape hides it, and it never gets the pointer or the focus.

import { h } from "./lib/dom.js";

const GAP_PX = 6;
const EDGE_PX = 4; // distance from the edge of the window

/** For all elements with `data-tip`: its text, or if that is empty the element's label. */
export function showTips() {
  const tip = h("div.tip", { popover: "manual", "aria-hidden": "true", hidden: true }); // it repeats labels
  document.body.append(tip);
  let owner = null;
  const hide = () => {
    owner = null;
    if (tip.hidden) return;
    tip.hidden = true;
    tip.hidePopover?.();
  };
  const show = (element) => {
    if (element === owner) return;
    hide();
    if (!element) return;
    owner = element;
    tip.textContent = element.dataset.tip || element.getAttribute("aria-label");
    tip.hidden = false;
    tip.showPopover?.(); // above dialogs
    place(tip, element.getBoundingClientRect());
  };
  const ownerOf = (target) => target.closest?.("[data-tip]") ?? null;
  document.addEventListener("pointerover", (event) => event.pointerType !== "touch" && show(ownerOf(event.target)));
  document.addEventListener("pointerout", (event) => owner && !owner.contains(event.relatedTarget) && hide()); // a disabled element sends no events
  document.addEventListener("focusin", (event) => show(event.target.matches(":focus-visible") ? ownerOf(event.target) : null));
  document.addEventListener("focusout", hide);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide(), { capture: true });
  for (const name of ["click", "scroll"]) document.addEventListener(name, hide, { capture: true });
}

/** Below the element, or above it if there is no room. */
function place(tip, box) {
  const { offsetWidth, offsetHeight } = tip;
  const left = box.left + (box.width - offsetWidth) / 2;
  const isBelow = box.bottom + GAP_PX + offsetHeight < innerHeight;
  tip.style.left = `${Math.max(EDGE_PX, Math.min(left, innerWidth - offsetWidth - EDGE_PX))}px`;
  tip.style.top = `${isBelow ? box.bottom + GAP_PX : box.top - GAP_PX - offsetHeight}px`;
}
