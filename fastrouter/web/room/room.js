// "Models and memory": which models are in memory, what they do, what a switch costs. Connects its parts and decides when to draw.
// Invariant: while it is not visible, nothing is drawn; it shows what `models` has, and polls nothing.

import { h, iconButton } from "../lib/dom.js";
import { Cards } from "./cards.js";
import { Downloads } from "./downloads.js";
import { MemoryBar } from "./memory.js";
import { News } from "./recent.js";
import { Palette } from "./palette.js";
import { Shelf } from "./on_disk.js";
import { Timeline } from "./timeline.js";

/** Fills `element`, with a button that calls `close`; resolves when its style is loaded. The returned function removes everything. */
export async function mountRoom(element, { api, models, close = null }) {
  const styled = addStyles("room.css", "../vendor/uplot.css");
  const palette = new Palette();
  const context = { api, models, palette };
  const parts = [new MemoryBar(context), new Timeline(context), new Cards(context), new Downloads(context), new Shelf(context), new News(context)];
  const inside = h("div.room", {}, h("header.room-top", {}, h("h2.room-title", {}, "Models and memory"), close && iconButton("close", "Close models and memory", close)), parts.map((part) => part.element));
  const offline = h("p.room-offline", { role: "status", hidden: true }, "The router cannot be reached. This is the last known state.");
  inside.firstChild.after(offline);
  await styled;
  element.append(inside);

  let frame = 0;
  const draw = () => {
    frame = 0;
    if (!inside.offsetParent) return; // closed, or another tab of the browser is visible
    offline.hidden = models.isConnected;
    palette.follow(models);
    for (const part of parts) part.draw();
  };
  const soon = () => {
    frame ||= requestAnimationFrame(draw);
  };
  const leaving = new AbortController();
  const { signal } = leaving;
  for (const name of ["change", "connection"]) models.addEventListener(name, soon, { signal });
  models.addEventListener("happened", ({ detail }) => {
    for (const part of parts) part.happened?.(detail);
    soon();
  }, { signal });
  const observer = new ResizeObserver(soon);
  observer.observe(inside);
  draw();
  return () => {
    leaving.abort();
    observer.disconnect();
    cancelAnimationFrame(frame);
    for (const part of parts) part.close?.();
    inside.remove();
  };
}

function addStyles(...paths) {
  return Promise.all(paths.map((path) => new Promise((resolve) => {
    const { href } = new URL(path, import.meta.url);
    if ([...document.styleSheets].some((sheet) => sheet.href === href)) {
      resolve();
      return;
    }
    document.head.append(h("link", { rel: "stylesheet", href, load: resolve, error: resolve }));
  })));
}
