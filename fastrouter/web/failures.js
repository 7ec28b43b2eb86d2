// What a failed load or answer means in plain words, and what helps.
// Invariant: the first kind that matches wins; the caller shows the router's own words too.

/** `helps`: another (model), or memory (to be freed); `isFile`: it concerns the model's file. */
const KINDS = [
  {
    pattern: /unknown (model )?architecture|unknown pre-?tokenizer|has the unknown type|has GGUF version|is big-endian/i,
    short: "a kind of model that this version cannot read",
    text: "This version of the router cannot read this kind of model. A newer version may.",
    helps: "another",
    isFile: true,
  },
  {
    pattern: /does not fit|out of memory|not enough memory|(unable|failed|cannot|could not) (to )?allocate|more memory than|MiB of memory/i,
    short: "not enough memory",
    text: "There is not enough free memory for this model. Unload another one, or choose a smaller one.",
    helps: "memory",
  },
  { pattern: /LoRA adapter/i, short: "an adapter cannot be used", text: "A LoRA adapter that is set for this model cannot be used with it.", helps: "another" },
  { pattern: /--model-draft/, short: "its draft model cannot be used", text: "The draft model that is set for this model cannot be used with it.", helps: "another" },
  {
    pattern: /no such file|is not a file|not downloaded|(file|part|shard)\S* .{0,80}(is|are) missing|has gone/i,
    short: "its file is not there",
    text: "The model's file is not where it should be. Put it back, or download it again.",
    helps: "another",
    isFile: true,
  },
  {
    pattern: /incomplete|ends at byte|cut at byte|at byte \d|does not begin with GGUF|: is empty|tensor\S* .{0,200}not found|wrong (number of tensors|shape)|missing tensor|corrupt|invalid magic|file bounds|could not load the file/i,
    short: "its file is damaged or incomplete",
    text: "The model's file is damaged, incomplete, or of a kind that this version cannot read. Downloading it again may help.",
    helps: "another",
    isFile: true,
  },
  { pattern: /chat[ _-]template|jinja|template error/i, short: "its chat template cannot be used", text: "The chat template of this model cannot be used with these messages.", helps: "another" },
];

/** One of KINDS, or null for words that need no explanation. */
export const kindOf = (words) => KINDS.find(({ pattern }) => pattern.test(words ?? "")) ?? null;

/** In a few words, for lists. */
export const causeInWords = (words) => kindOf(words)?.short ?? words;
