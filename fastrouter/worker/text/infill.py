"""The prompt of /infill: text before and after a gap, and other files, with the vocabulary's FIM tokens. Built as in llama-server.

    [REP]myproject  [SEP]file text ...  [SEP]filename  BOS  [PRE]prefix prompt  [SUF]suffix  [MID]

Knows the vocabulary, but no slot and no sequence. Invariant: the text around the gap fits into one batch, three parts before the gap
and one after it; the end of the other files fills the rest of the context, except the space of two answers.
"""

from array import array
from typing import Any

from fastrouter.errors import InvalidRequest, ModelCannot
from fastrouter.ipc.messages import Generate
from fastrouter.options.load import LoadOptions
from fastrouter.worker.llama.vocab import Vocab

_REPOSITORY = "myproject\n"
_FILENAME = "filename\n"
_SNIPPET = "\n\n--- snippet ---\n\n"  # between files, if the vocabulary has no token for it


def build_infill(vocab: Vocab, generate: Generate, options: LoadOptions, n_ctx: int) -> "array[int]":
    """Raises ModelCannot for a model that was not trained for this."""
    _check(vocab)
    infill: dict[str, Any] = generate.infill or {}
    prompt = vocab.tokenize(str(generate.prompt or ""), add_special=False)
    n_batch = options.batch_size
    prefix, suffix = _tokens(vocab, infill["prefix"]), _tokens(vocab, infill["suffix"])
    num_prefix = min(len(prefix), 3 * (n_batch // 4))
    num_suffix = min(len(suffix), max(0, n_batch // 4 - (2 + len(prompt))))
    before = [vocab.fim["pre"], *prefix[len(prefix) - num_prefix :], *prompt]
    behind = [vocab.fim["suf"], *suffix[:num_suffix]]
    extra = _other_files(vocab, infill["extra"])
    num_extra = min(len(extra), max(0, n_ctx - n_batch - 2 * options.n_predict))
    bos = [vocab.bos] if vocab.add_bos else []
    sides = [*behind, *before] if options.spm_infill else [*before, *behind]
    return array("i", [*extra[len(extra) - num_extra :], *bos, *sides, vocab.fim["mid"]])


def _check(vocab: Vocab) -> None:
    names = {"pre": "prefix", "suf": "suffix", "mid": "middle"}
    missing = [f"{name} token is missing. " for key, name in names.items() if vocab.fim[key] < 0]
    if missing:
        raise ModelCannot(f"Infill is not supported by this model: {''.join(missing)}")


def _other_files(vocab: Vocab, extra: list[list[str]]) -> list[int]:
    found = [vocab.fim["rep"], *_tokens(vocab, _REPOSITORY)] if vocab.fim["rep"] >= 0 else []
    separator = [vocab.fim["sep"]] if vocab.fim["sep"] >= 0 else []
    for filename, text in extra:
        found += [*separator, *_tokens(vocab, f"{filename}\n")] if separator else _tokens(vocab, _SNIPPET)
        found += _tokens(vocab, text)
    return [*found, *separator, *_tokens(vocab, _FILENAME)] if separator else found


def _tokens(vocab: Vocab, content: str | list[Any]) -> list[int]:
    """Text, token ids or a mix. A text never becomes a special token."""
    found: list[int] = []
    for item in [content] if isinstance(content, str) else content:
        if isinstance(item, str):
            found += vocab.tokenize(item, add_special=False, parse_special=False)
        elif 0 <= item < vocab.n_tokens:
            found.append(item)
        else:
            raise InvalidRequest(f"Prompt contains invalid tokens: {item!r}")
    return found
