// Text files that are attached to a question: reading them, their limits, their form in a request. Knows no page and no conversation.
// Invariant: a file is {name, text}; a file that is not text is refused, with the reason.

import { bytesInWords } from "../lib/words.js";

export const MAX_FILE_BYTES = 1_000_000;
export const MAX_FILES_BYTES = 4_000_000; // of one question; the router takes a conversation of 8 MiB
const LONGEST_NAME = 200;
const CONTROLS = /[\x00-\x08\x0e-\x1a\x1c-\x1f]/; // text has none of these

const encoder = new TextEncoder();

export const bytesOf = ({ text }) => encoder.encode(text).length;

export const labelOf = (file) => `${file.name}, ${bytesInWords(bytesOf(file)) || "empty"}`;

/** {name, text} of a File. Throws an Error for the user. */
export async function readTextFile(file) {
  if (file.size > MAX_FILE_BYTES) throw new Error(`${file.name} is larger than ${bytesInWords(MAX_FILE_BYTES)}: attach a part of it`);
  const text = textOf(new Uint8Array(await file.arrayBuffer()));
  if (text === null) throw new Error(`${file.name} is not a text file: only text can be attached`);
  if (!text.trim()) throw new Error(`${file.name} is empty`);
  return { name: nameOf(file.name), text };
}

/** UTF-8, UTF-16 with a byte order mark, or the old encoding of Windows; null for other bytes. */
export function textOf(bytes) {
  const mark = (bytes[0] << 8) | bytes[1];
  const encodings = mark === 0xfffe ? ["utf-16le"] : mark === 0xfeff ? ["utf-16be"] : ["utf-8", "windows-1252"];
  for (const encoding of encodings) {
    const text = decoded(bytes, encoding);
    if (text !== null) return CONTROLS.test(text) ? null : text;
  }
  return null;
}

function decoded(bytes, encoding) {
  try {
    return new TextDecoder(encoding, { fatal: true }).decode(bytes);
  } catch {
    return null;
  }
}

/** One line, which the form below can hold. */
export const nameOf = (name) => name.replace(/\s+/g, " ").trim().slice(0, LONGEST_NAME) || "file";

/** As llama-server's page sends it: a part of the message before the question. */
export const partOf = ({ name, text }) => ({ type: "text", text: `\n\n--- File: ${name} ---\n${text}` });
