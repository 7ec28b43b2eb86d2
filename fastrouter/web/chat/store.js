// Conversations in this browser's IndexedDB, and beside them their pictures and sounds. Knows no page.
// Invariant: the list shows what is stored; a browser without storage can chat, but keeps nothing.

import { Media, MEDIA_TABLE, blobOf, settled } from "./media.js";
import { mediaOf } from "./media_parts.js";

const NAME = "fastrouter";
const TABLE = "conversations";
const VERSION = 2; // in 1, pictures were data URLs in their messages

/** Events: `change`; `foreign` (detail: a conversation's id) after another tab has changed it. */
export class Store extends EventTarget {
  #database = null;
  #conversations = new Map();
  #channel = new BroadcastChannel(NAME); // other tabs
  media = new Media();

  async open() {
    try {
      const request = indexedDB.open(NAME, VERSION);
      request.onupgradeneeded = ({ oldVersion }) => upgrade(request, oldVersion);
      this.#database = await settled(request);
      this.#database.onversionchange = () => this.#database.close(); // another tab has a newer page
      this.media.table = (mode) => this.#database.transaction(MEDIA_TABLE, mode).objectStore(MEDIA_TABLE);
      await this.#read();
    } catch (error) {
      console.warn("conversations are not kept:", error);
    }
    this.#channel.onmessage = async ({ data: id }) => {
      await this.#read();
      this.dispatchEvent(new CustomEvent("foreign", { detail: id }));
    };
  }

  get isLasting() {
    return this.#database !== null;
  }

  async #read() {
    const stored = await settled(this.#table("readonly").getAll());
    // A conversation that this tab uses stays the same object.
    this.#conversations = new Map(stored.map((one) => [one.id, refresh(this.#conversations.get(one.id), one)]));
    this.#changed();
  }

  /** In the order of use, the last one first. */
  list() {
    return [...this.#conversations.values()].sort((a, b) => b.updated - a.updated);
  }

  get(id) {
    return this.#conversations.get(id);
  }

  async save(conversation) {
    this.#conversations.set(conversation.id, conversation);
    if (this.#database) await settled(this.#table("readwrite").put(conversation));
    this.#changed();
    this.#channel.postMessage(conversation.id);
  }

  async remove(id) {
    const messages = Object.values(this.#conversations.get(id)?.messages ?? {});
    this.#conversations.delete(id);
    if (this.#database) await settled(this.#table("readwrite").delete(id));
    await this.media.remove(new Set(messages.flatMap(mediaOf).map((medium) => medium.id)));
    this.#changed();
    this.#channel.postMessage(id);
  }

  #table(mode) {
    return this.#database.transaction(TABLE, mode).objectStore(TABLE);
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

function refresh(held, stored) {
  if (!held || held.updated >= stored.updated) return held ?? stored;
  return Object.assign(held, stored);
}

function upgrade({ result: database, transaction }, oldVersion) {
  database.createObjectStore(MEDIA_TABLE, { keyPath: "id" });
  if (!oldVersion) database.createObjectStore(TABLE, { keyPath: "id" });
  else moveMedia(transaction.objectStore(TABLE), transaction.objectStore(MEDIA_TABLE));
}

/** The pictures of version 1. */
function moveMedia(conversations, media) {
  const moved = (id, url) => {
    const blob = typeof url === "string" ? blobOf(url) : null;
    if (blob) media.put({ id, blob });
    return blob && { id, type: blob.type, bytes: blob.size };
  };
  conversations.openCursor().onsuccess = ({ target: { result: cursor } }) => {
    if (!cursor) return;
    for (const message of Object.values(cursor.value.messages)) {
      if (message.images) message.images = message.images.map((url, at) => moved(`${message.id}-${at}`, url)).filter(Boolean);
    }
    cursor.update(cursor.value);
    cursor.continue();
  };
}
