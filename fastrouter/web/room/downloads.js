// Models that come from the hub: starting, watching and stopping a download.

import { notify } from "../lib/dialogs.js";
import { h, iconButton } from "../lib/dom.js";
import { percentOf } from "../models.js";
import { bytesInWords } from "../lib/words.js";

const CANCELLED = "it was cancelled"; // by a user, so it is not reported

export class Downloads {
  #api;
  #models;
  #rows = new Map();
  #failures = new Map();
  #parts = {};

  constructor({ api, models }) {
    this.#api = api;
    this.#models = models;
    const parts = this.#parts;
    parts.input = h("input.input", { type: "text", name: "model", placeholder: "user/repo:Q4_K_M", autocomplete: "off", autocapitalize: "off", spellcheck: "false", "aria-label": "Model of the hub to download", "aria-describedby": "room-download-error" });
    parts.button = h("button.button", { type: "submit" }, "Download");
    parts.error = h("p.room-error", { id: "room-download-error", role: "alert", hidden: true });
    parts.list = h("ul.room-downloads");
    const form = h("form.room-download", { onsubmit: (event) => { event.preventDefault(); this.#start(parts.input.value.trim()); } }, parts.input, parts.button);
    this.element = h("section", { "aria-label": "Downloads" }, h("h3", {}, "From the hub"), form, parts.error, parts.list);
  }

  happened({ model, event, data }) {
    if (event === "download_failed" && data.error !== CANCELLED) this.#failures.set(model, data.error);
    if (event === "download_finished") this.#failures.delete(model);
    if (event === "model_status" && data.status === "downloading") this.#failures.delete(model);
  }

  draw() {
    const coming = this.#models.list().filter((model) => model.status.value === "downloading");
    const ids = new Set([...coming.map((model) => model.id), ...this.#failures.keys()]);
    for (const [id, row] of this.#rows) {
      if (ids.has(id)) continue;
      row.element.remove();
      this.#rows.delete(id);
    }
    for (const id of ids) {
      if (!this.#rows.has(id)) this.#rows.set(id, this.#row(id));
      this.#drawRow(this.#rows.get(id), this.#models.get(id), this.#failures.get(id));
    }
  }

  #row(id) {
    const row = { figures: h("p.room-traits"), bar: h("div.progress", { role: "progressbar", "aria-label": `Download of ${id}`, "aria-valuemin": "0", "aria-valuemax": "100" }, h("i")) };
    row.error = h("p.room-error", { hidden: true });
    row.again = iconButton("retry", `Download ${id} again`, () => this.#start(id), { class: "icon-button small" });
    row.stop = iconButton("close", "", () => this.#stop(id), { class: "icon-button small" });
    row.element = h("li.room-row", { "data-model": id }, h("div.room-card-head", {}, h("h4", {}, id), h("span.push"), row.again, row.stop), row.bar, row.figures, row.error);
    row.id = id;
    this.#parts.list.append(row.element);
    return row;
  }

  #drawRow(row, model, error) {
    const isRunning = error === undefined;
    const percent = isRunning ? percentOf(model) : null;
    const files = Object.values((isRunning && model?.status.progress) || {});
    const sum = (name) => files.reduce((total, file) => total + (file[name] || 0), 0);
    row.bar.hidden = row.figures.hidden = !isRunning;
    row.bar.setAttribute("aria-valuenow", String(percent ?? 0));
    row.bar.firstChild.style.transform = `scaleX(${(percent ?? 0) / 100})`;
    row.figures.textContent = sum("total") ? `${bytesInWords(sum("done")) || "0"} of ${bytesInWords(sum("total"))} · ${percent}%` : "Asking the hub …";
    row.error.hidden = isRunning;
    row.error.textContent = error ?? "";
    row.again.hidden = isRunning;
    const label = isRunning ? `Stop the download of ${row.id}` : `Forget ${row.id}`;
    for (const name of ["aria-label", "title"]) row.stop.setAttribute(name, label);
  }

  async #start(name) {
    const { input, button, error } = this.#parts;
    if (!name) {
      input.focus();
      return;
    }
    error.hidden = true;
    button.disabled = true;
    try {
      await this.#api.post("models", { model: name });
      if (input.value.trim() === name) input.value = "";
    } catch (problem) {
      error.textContent = problem.message;
      error.hidden = false;
    } finally {
      button.disabled = false;
    }
  }

  async #stop(id) {
    if (this.#failures.delete(id)) {
      this.draw();
      return;
    }
    try {
      await this.#models.unload(id);
    } catch (error) {
      notify(error.message);
    }
  }
}
