// JSON laid out in lines, also while it is on its way. Knows no element.
// Invariant: each character is looked at once; only white space between tokens is changed.

const DEEPEST_INDENT = 40; // levels; a model may open brackets without end

export class JsonPrinter {
  #depth = 0;
  #isText = false; // inside of a string
  #isEscaped = false;
  #hasOpened = false; // a bracket that may stay empty

  /** What to append for the next piece. */
  print(piece) {
    let printed = "";
    for (const character of piece) printed += this.#isText ? this.#inside(character) : this.#between(character);
    return printed;
  }

  #inside(character) {
    if (this.#isEscaped) this.#isEscaped = false;
    else if (character === "\\") this.#isEscaped = true;
    else if (character === '"') this.#isText = false;
    return character;
  }

  #between(character) {
    if (" \t\r\n".includes(character)) return "";
    const isClosing = character === "}" || character === "]";
    if (isClosing && this.#depth) this.#depth -= 1;
    const before = isClosing === this.#hasOpened ? "" : this.#line();
    this.#hasOpened = character === "{" || character === "[";
    if (this.#hasOpened) this.#depth += 1;
    this.#isText = character === '"';
    if (character === ",") return `${before},${this.#line()}`;
    return before + (character === ":" ? ": " : character);
  }

  #line() {
    return `\n${"  ".repeat(Math.min(this.#depth, DEEPEST_INDENT))}`;
  }
}

/** Text that is not JSON stays as it is. */
export function indented(text) {
  return isJson(text) ? new JsonPrinter().print(text) : text;
}

export function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
