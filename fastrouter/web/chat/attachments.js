// What will be sent with the next question: text files, long pastes, pictures, sounds. Knows no conversation.
// Invariant: what is attached can be sent; everything else is refused with the reason when it is attached.

import { notify } from "../lib/dialogs.js";
import { h, icon, iconButton } from "../lib/dom.js";
import { bytesInWords } from "../lib/words.js";
import { dataUrlOf } from "./media.js";
import { viewOfMedium } from "./media_view.js";
import { readPicture } from "./picture_files.js";
import { readSound } from "./sound_files.js";
import { bytesOf, labelOf, MAX_FILES_BYTES, readTextFile } from "./text_files.js";

const MAX_MEDIA_BYTES = 5_500_000; // of a conversation, which each request sends: a third more as base64, and a request may have 8 MiB
const PASTED = "Pasted text";
const STORED = "fastrouter.pasteLength";

/** How long a pasted text may be before it becomes a file; 0: any length. */
export class PasteLimit {
  usual = 2500; // if this browser has no choice stored

  get characters() {
    const stored = localStorage.getItem(STORED);
    return stored === null ? this.usual : Number(stored);
  }

  set characters(characters) {
    localStorage.setItem(STORED, String(characters));
  }

  isLong(text) {
    return this.characters > 0 && text.length > this.characters;
  }
}

export class Attachments {
  #files = [];
  #media = []; // {medium: {blob, type, ...}, kind, url, view}
  #num = 0; // of the last one
  #model;
  #sentBytes;
  #costOf;
  #onChange;
  #onRemove;
  #intoText;
  element = h("div.attachments", { hidden: true });

  /** `model()`: {id, seesPictures, hearsSounds, pictureSize} of the one that will get them. `sentBytes()`: of the pictures and sounds of
   * the conversation. `costOf(kind, data URL)`: tokens, or null. `intoText(text)` puts a paste into the written text. `onRemove()`:
   * the button that was pressed is gone. */
  constructor({ model, sentBytes, costOf, onChange, onRemove, intoText }) {
    this.#model = model;
    this.#sentBytes = sentBytes;
    this.#costOf = costOf;
    this.#onChange = onChange;
    this.#onRemove = onRemove;
    this.#intoText = intoText;
  }

  get isEmpty() {
    return !this.#files.length && !this.#media.length;
  }

  /** Of what is attached: picture, sound. */
  get kinds() {
    return this.#media.map(({ kind }) => kind);
  }

  #takes(kind) {
    const model = this.#model();
    return Boolean(kind === "sound" ? model?.hearsSounds : model?.seesPictures);
  }

  /** {images, sounds, files}, which are not attached any more. */
  take() {
    const of = (kind) => this.#media.filter((each) => each.kind === kind).map(({ medium }) => medium);
    const taken = { images: of("picture"), sounds: of("sound"), files: this.#files };
    for (const { url } of this.#media) URL.revokeObjectURL(url);
    this.#files = [];
    this.#media = [];
    this.#num = 0;
    this.#changed();
    return taken;
  }

  async add(files) {
    for (const file of files) {
      try {
        await this.#add(file);
      } catch (error) {
        notify(error.message);
      }
    }
    this.#changed();
  }

  async #add(file) {
    if (file.type.startsWith("image/") && file.type !== "image/svg+xml") await this.#addMedium(file, "picture");
    else if (file.type.startsWith("audio/")) await this.#addMedium(file, "sound");
    else this.#addFile(await readTextFile(file));
  }

  addPaste(text) {
    const others = this.#files.filter((file) => file.isPasted).length;
    try {
      this.#addFile({ name: others ? `${PASTED} ${others + 1}` : PASTED, text: text.trimEnd(), isPasted: true });
    } catch (error) {
      notify(error.message);
    }
    this.#changed();
  }

  #addFile(file) {
    const total = [...this.#files, file].reduce((sum, each) => sum + bytesOf(each), 0);
    if (total > MAX_FILES_BYTES) throw new Error(`${file.name} is not attached: all files of a question may have ${bytesInWords(MAX_FILES_BYTES)}`);
    this.#files.push(file);
  }

  async #addMedium(file, kind) {
    const model = this.#model();
    if (!this.#takes(kind)) throw new Error(`${model?.id ?? "This model"} cannot ${kind === "sound" ? "hear sounds" : "see pictures"}: choose a model that can`);
    const { blob, ...facts } = kind === "sound" ? await readSound(file) : await readPicture(file, model.pictureSize);
    const total = [...this.#media.map(({ medium }) => medium.blob.size), blob.size].reduce((sum, bytes) => sum + bytes, this.#sentBytes());
    if (total > MAX_MEDIA_BYTES) throw new Error(`${file.name} is not attached: the pictures and sounds of a conversation may have ${bytesInWords(MAX_MEDIA_BYTES)}. Begin a new chat`);
    const each = { medium: { blob, type: blob.type, ...facts }, kind, url: URL.createObjectURL(blob) };
    each.view = this.#viewOf(each);
    this.#media.push(each);
    this.#learnCost(each);
  }

  #viewOf(each) {
    this.#num += 1;
    const label = `${each.kind} ${this.#num}`;
    const remove = () => {
      URL.revokeObjectURL(each.url);
      this.#remove(this.#media, each);
    };
    return viewOfMedium(each.medium, each.url, `Attached ${label}`, iconButton("close", `Remove ${label}`, remove, { class: "icon-button small" }));
  }

  async #learnCost({ medium, kind, view }) {
    const tokens = await this.#costOf(kind, await dataUrlOf(medium.blob));
    if (!tokens) return;
    medium.tokens = tokens;
    view.update();
  }

  #remove(list, each) {
    list.splice(list.indexOf(each), 1);
    this.#changed();
    this.#onRemove();
  }

  #changed() {
    this.element.hidden = this.isEmpty;
    this.element.replaceChildren(...this.#media.map(({ view }) => view.element), ...this.#files.map((file) => this.#fileChip(file)));
    this.#onChange();
  }

  #fileChip(file) {
    const remove = () => this.#remove(this.#files, file);
    const unfold = () => { remove(); this.#intoText(file.text); };
    const label = file.isPasted
      ? h("button.quiet", { type: "button", "data-tip": "Put it into the text, to read or change it", onclick: unfold }, icon("clip"), labelOf(file))
      : h("span.file-name", {}, icon("clip"), labelOf(file));
    return h("span.file", {}, label, iconButton("close", `Remove ${file.name}`, remove, { class: "icon-button small" }));
  }
}
