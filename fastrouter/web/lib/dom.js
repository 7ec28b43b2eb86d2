// Makes elements. Invariant: text stays text; nothing here parses HTML.

/** `h("button.quiet", {type: "button", onclick}, "Save")`: functions become listeners, `true` an empty attribute; null and false are ignored. */
export function h(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(key.replace(/^on/, ""), value);
    else if (key === "value" || key === "checked") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** One of the ICONS, in the colour of the text around it. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  for (const shape of ICONS[name]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", shape);
    svg.append(path);
  }
  return svg;
}

/** Its label is shown beside it while the pointer or the keyboard is on it: see tips.js. */
export function iconButton(name, label, onclick, more = {}) {
  return h("button.icon-button", { type: "button", "aria-label": label, "data-tip": "", onclick, ...more }, icon(name));
}

/** With `words` beside the icon if there is room; they are a part of `label`. */
export function namedButton(name, words, label, onclick, more = {}) {
  const button = iconButton(name, label, onclick, { class: "icon-button named", ...more });
  button.append(h("span.named-words", {}, words));
  return button;
}

const ICONS = {
  plus: ["M12 5v14M5 12h14"],
  menu: ["M4 7h16M4 12h16M4 17h10"],
  close: ["M6 6l12 12M18 6L6 18"],
  send: ["M12 19V5M6 11l6-6 6 6"],
  stop: ["M8 8h8v8H8z"],
  copy: ["M9 9h10v10H9z", "M5 15V5h10"],
  check: ["M5 12.5l4.5 4.5L19 7.5"],
  retry: ["M20 11a8 8 0 1 0-2.3 6.3M20 5v6h-6"],
  swap: ["M7 4L3 8l4 4M3 8h14M17 12l4 4-4 4M21 16H7"],
  edit: ["M4 20h4L19 9l-4-4L4 16zM13.5 6.5l4 4"],
  trash: ["M5 7h14M10 7V5h4v2M7 7l1 12h8l1-12"],
  left: ["M14.5 6l-6 6 6 6"],
  right: ["M9.5 6l6 6-6 6"],
  down: ["M6 9.5l6 6 6-6"],
  sliders: ["M4 8h9M17 8h3M4 16h3M11 16h9M15 6v4M9 14v4"],
  columns: ["M4 5h16v14H4zM12 5v14"],
  gauge: ["M4 17a8 8 0 1 1 16 0M12 17l4-6"],
  sun: ["M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6L7 7M17 17l1.4 1.4M18.4 5.6L17 7M7 17l-1.4 1.4"],
  moon: ["M19 14.5A7.5 7.5 0 0 1 9.5 5 7.5 7.5 0 1 0 19 14.5z"],
  clip: ["M19 11.5l-7.6 7.6a4.6 4.6 0 0 1-6.5-6.5l7.9-7.9a3 3 0 0 1 4.3 4.3l-7.6 7.6a1.5 1.5 0 0 1-2.1-2.1l6.7-6.7"],
  image: ["M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9h.01"],
  camera: ["M4 8h4l2-3h4l2 3h4v11H4zM12 10a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7z"],
  microphone: ["M12 4a2.5 2.5 0 0 0-2.5 2.5v5a2.5 2.5 0 0 0 5 0v-5A2.5 2.5 0 0 0 12 4zM6 11.5a6 6 0 0 0 12 0M12 17.5V20"],
  pin: ["M9 4h6l-1 6 3 3H7l3-3zM12 13v7"],
  play: ["M8 5l11 7-11 7z"],
  eject: ["M12 5l7 9H5zM5 18h14"],
  more: ["M6 12h.01M12 12h.01M18 12h.01"],
  search: ["M11 5a6 6 0 1 0 0 12 6 6 0 0 0 0-12zM15.5 15.5L20 20"],
  download: ["M12 4v11M7 10.5l5 5 5-5M5 20h14"],
  upload: ["M12 16V5M7 9.5l5-5 5 5M5 20h14"],
  tool: ["M14.5 6.5a4 4 0 0 0-5 5L4 17l3 3 5.5-5.5a4 4 0 0 0 5-5L15 12l-3-3z"],
  help: ["M9.3 9a2.8 2.8 0 1 1 3.9 3c-.8.4-1.2 1-1.2 2M12 17.5h.01"],
};
