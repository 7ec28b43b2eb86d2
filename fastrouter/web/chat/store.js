// Conversations in this browser's IndexedDB. Knows no page.
// Invariant: the list shows what is stored; a browser without storage can chat, but keeps nothing.

const NAME = "fastrouter";
const TABLE = "conversations";

/** Events: `change`; `foreign` (detail: a conversation's id) after another tab has changed it. */
export class Store extends EventTarget {
  #database = null;
  #conversations = new Map();
  #channel = new BroadcastChannel(NAME); // other tabs

  async open() {
    try {
      const request = indexedDB.open(NAME, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
      this.#database = await settled(request);
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
    this.#conversations.delete(id);
    if (this.#database) await settled(this.#table("readwrite").delete(id));
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

function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("another tab uses the storage"));
  });
}
