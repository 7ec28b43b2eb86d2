// The pictures and sounds of conversations, beside them in this browser's IndexedDB. Knows no page and no message.
// Invariant: a conversation holds only references ({id, type, bytes, ...}); the bytes are read when they are shown, sent or exported.

import { newId } from "./conversation.js";

export const MEDIA_TABLE = "media";
const DATA_URL = /^data:((?:image\/(?:png|jpeg|gif|bmp|webp)|audio\/wav));base64,([A-Za-z0-9+/]+={0,2})$/;

export class Media {
  #blobs = new Map(); // by id: not stored yet, or in a browser without storage
  #urls = new Map(); // promises of addresses for elements, by id
  #table = null; // (mode) => the table, if there is a storage
  onLost = () => {}; // (error) one is not kept after this visit

  set table(table) {
    this.#table = table;
  }

  /** `blob` with facts about it. Returns the reference, which has the facts too. */
  keep({ blob, ...facts }) {
    const id = newId();
    this.#blobs.set(id, blob);
    this.#put(id, blob).catch((error) => this.onLost(error));
    return { id, type: blob.type, bytes: blob.size, ...facts };
  }

  /** The same for a data URL; null for another text. */
  keepUrl(url, facts = {}) {
    const blob = blobOf(url);
    return blob && this.keep({ blob, ...facts });
  }

  async #put(id, blob) {
    if (!this.#table) return;
    await settled(this.#table("readwrite").put({ id, blob }));
    this.#blobs.delete(id);
  }

  async #blobOf(id) {
    const held = this.#blobs.get(id);
    if (held || !this.#table) return held ?? null;
    return (await settled(this.#table("readonly").get(id)))?.blob ?? null;
  }

  /** For the `src` of an element; null if this browser does not have it any more. */
  urlOf(id) {
    if (!this.#urls.has(id)) this.#urls.set(id, this.#blobOf(id).then((blob) => blob && URL.createObjectURL(blob)));
    return this.#urls.get(id);
  }

  /** A data URL, or null. */
  async dataUrlOf(id) {
    const blob = await this.#blobOf(id);
    return blob && dataUrlOf(blob);
  }

  async remove(ids) {
    for (const id of ids) {
      this.#blobs.delete(id);
      this.#urls.get(id)?.then((url) => url && URL.revokeObjectURL(url));
      this.#urls.delete(id);
      if (this.#table) await settled(this.#table("readwrite").delete(id));
    }
  }
}

export function dataUrlOf(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** Of a data URL with a picture or a sound; null for anything else. */
export function blobOf(url) {
  const [, type, encoded] = DATA_URL.exec(url) ?? [];
  if (!type) return null;
  try {
    return new Blob([Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0))], { type });
  } catch {
    return null; // base64 of a wrong length
  }
}

export function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("another tab uses the storage"));
  });
}
