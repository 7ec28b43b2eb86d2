// What will be sent with the next question: text files, long pastes, pictures. Knows no conversation.
// Invariant: what is attached can be sent; everything else is refused with the reason when it is attached.

import { notify } from "../lib/dialogs.js";
import { h, icon, iconButton } from "../lib/dom.js";
import { bytesInWords } from "../lib/words.js";
import { bytesOf, labelOf, MAX_FILES_BYTES, readTextFile } from "./text_files.js";

const MAX_PICTURE_BYTES = 5 << 20; // in a request it takes a third more, and a request may have 8 MiB
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
  #pictures = []; // addresses with the data
  #model; // () => the model that will get them
  #onChange;
  #intoText;
  element = h("div.attachments", { hidden: true });

  /** `intoText(text)` puts a paste into the written text. */
  constructor({ model, onChange, intoText }) {
    this.#model = model;
    this.#onChange = onChange;
    this.#intoText = intoText;
  }

  get isEmpty() {
    return !this.#files.length && !this.#pictures.length;
  }

  /** {files, pictures}, which are not attached any more. */
  take() {
    const taken = { files: this.#files, pictures: this.#model()?.seesPictures ? this.#pictures : [] };
    this.#files = [];
    this.#pictures = [];
    this.#changed();
    return taken;
  }

  async add(files) {
    for (const file of files) {
      try {
        await (file.type.startsWith("image/") && file.type !== "image/svg+xml" ? this.#addPicture(file) : this.#addFile(await readTextFile(file)));
      } catch (error) {
        notify(error.message);
      }
    }
    this.#changed();
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

  async #addPicture(file) {
    const model = this.#model();
    if (!model?.seesPictures) throw new Error(`${model?.id ?? "This model"} cannot see pictures`);
    if (file.size > MAX_PICTURE_BYTES) throw new Error(`${file.name} is larger than ${MAX_PICTURE_BYTES >> 20} MB: send a smaller picture`);
    this.#pictures.push(await addressOf(file));
  }

  #changed() {
    this.element.hidden = this.isEmpty;
    this.element.replaceChildren(...this.#pictures.map((url, at) => this.#pictureChip(url, at)), ...this.#files.map((file) => this.#fileChip(file)));
    this.#onChange();
  }

  #pictureChip(url, at) {
    const remove = () => { this.#pictures.splice(at, 1); this.#changed(); };
    return h("span.picture", {}, h("img", { src: url, alt: `Picture ${at + 1}` }), iconButton("close", `Remove picture ${at + 1}`, remove, { class: "icon-button small" }));
  }

  #fileChip(file) {
    const remove = () => { this.#files.splice(this.#files.indexOf(file), 1); this.#changed(); };
    const unfold = () => { remove(); this.#intoText(file.text); };
    const label = file.isPasted
      ? h("button.quiet", { type: "button", "data-tip": "Put it into the text, to read or change it", onclick: unfold }, icon("clip"), labelOf(file))
      : h("span.file-name", {}, icon("clip"), labelOf(file));
    return h("span.file", {}, label, iconButton("close", `Remove ${file.name}`, remove, { class: "icon-button small" }));
  }
}

function addressOf(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
