// Where the time of one answer goes, measured by the page: the router's figures come only at the end of a complete answer.
// Knows no message. Invariant: the parts add up to the time since the request; a part is counted once.

/** The starts of the router's comments, and the part that each begins. */
const PARTS = { queued: "queue", loading: "load", prefill: "prefill" };

export class Times {
  #spent = { queue: 0, load: 0, prefill: 0, decode: 0 };
  #part = null; // unknown until the first comment or token
  #since;
  #thought_ms = 0;
  #thinkingSince = 0;
  asked;
  first = 0; // token
  last = 0;

  constructor() {
    this.asked = this.#since = performance.now();
  }

  /** One of the router's comments, or of its progress. */
  wait(comment) {
    const part = PARTS[/^\w+/.exec(comment)?.[0]];
    if (part && !this.first) this.#enter(part, performance.now());
  }

  /** Some text has come. `isThought`: it belongs to the reasoning. */
  token(isThought) {
    const now = performance.now();
    if (!this.first) {
      this.#part ??= "prefill";
      this.first = now;
      this.#enter("decode", now);
    }
    this.last = now;
    if (isThought) this.#thinkingSince ||= now;
    else this.#endThought(now);
  }

  /** Nothing more will come. */
  end() {
    const now = performance.now();
    if (this.first) this.#spent.decode = this.last - this.first;
    else if (this.#part) this.#spent[this.#part] += now - this.#since;
    this.#endThought(this.last);
  }

  get thought_ms() {
    return this.#thought_ms + (this.#thinkingSince ? this.last - this.#thinkingSince : 0);
  }

  /** Tokens a second, of `num` so far; undefined while that would be guessed. */
  speedOf(num) {
    const seconds = (this.last - this.first) / 1e3;
    return seconds > 0.25 ? (num - 1) / seconds : undefined;
  }

  /** {queue_ms, load_ms, ...}: only parts that took some time. */
  figures() {
    const parts = Object.entries(this.#spent).filter(([, ms]) => ms > 0);
    return Object.fromEntries(parts.map(([part, ms]) => [`${part}_ms`, ms]));
  }

  /** The time before the first comment belongs to the part that it names. */
  #enter(part, now) {
    if (this.#part && part !== this.#part) {
      this.#spent[this.#part] += now - this.#since;
      this.#since = now;
    }
    this.#part = part;
  }

  #endThought(now) {
    if (this.#thinkingSince) this.#thought_ms += now - this.#thinkingSince;
    this.#thinkingSince = 0;
  }
}
