"""Tiny models that write chosen texts, token by token: real ones, for what a random model does not write by itself.

A model has a script for each word. The last word of the prompt chooses the script, and the end of the script ends the answer. Attention and
feed-forward layers write nothing, so the last token alone decides the next one, with a chance that no usual temperature changes.
Invariant: no two tokens of a model have the same text, because llama.cpp refuses that; so a text is cut where its pieces differ.
"""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny_models import WIDTH, make_llama, make_tensors, make_vocabulary

NORMAL, CONTROL, USER_DEFINED = int(gguf.TokenType.NORMAL), int(gguf.TokenType.CONTROL), int(gguf.TokenType.USER_DEFINED)
END = 2  # </s>
_SURE = 60.0  # logits that the next token is ahead of all others


class Scripts:
    """The vocabulary of a model that knows these scripts, and its weights."""

    def __init__(
        self, scripts: dict[str, str], special: dict[str, int] | None = None, piece_chars: int = 5, endless: tuple[str, ...] = ()
    ) -> None:
        """`scripts`: by the word that begins each. `special`: texts that are one token of a kind. `piece_chars`: of the other tokens.
        `endless`: the words of scripts that begin again and again."""
        self._endless = endless
        self._special = special or {}
        self._piece_chars = piece_chars
        pieces, scores, kinds = make_vocabulary()
        self._ids = {piece: number for number, piece in enumerate(pieces)}
        self.vocabulary = (pieces, scores, kinds)
        for text, kind in self._special.items():
            self._add(text, kind)
        self._chains = [self._chain(word, text) for word, text in scripts.items()]

    def _add(self, text: str, kind: int) -> int:
        piece = text.replace(" ", "▁").encode() if kind == NORMAL else text.encode()
        assert piece not in self._ids, f"{text!r} is in the vocabulary already"
        pieces, scores, kinds = self.vocabulary
        pieces.append(piece)
        scores.append(-1e6)
        kinds.append(kind)
        self._ids[piece] = len(pieces) - 1
        return len(pieces) - 1

    def _chain(self, word: str, text: str) -> list[int]:
        """Tokens from the word that begins the script to the end of the text. A special token stands in one chain, once."""
        tokens = [self._ids[f"▁{word}".encode()]]
        for part in re.split("(" + "|".join(map(re.escape, self._special)) + ")", text) if self._special else [text]:
            if part in self._special:
                tokens.append(self._ids[part.encode()])
            else:
                tokens += [self._add(piece, NORMAL) for piece in self._cut(part, ())]
        return [*tokens, tokens[1] if word in self._endless else END]

    def _cut(self, text: str, before: tuple[str, ...]) -> tuple[str, ...]:
        """Into new pieces, about equally long."""
        if not text:
            return before
        usual = self._piece_chars
        for size in sorted(range(1, 2 * usual), key=lambda size: abs(size - usual)):
            piece = text[:size]
            is_new = piece.replace(" ", "▁").encode() not in self._ids and piece not in before
            if is_new and (pieces := self._cut(text[size:], (*before, piece))):
                return pieces
        return ()

    def tensors(self) -> dict[str, Any]:
        num_tokens = len(self.vocabulary[0])
        tensors = make_tensors(num_tokens, 0)
        random = np.random.default_rng(1)
        embedding = random.standard_normal((num_tokens, WIDTH)).astype(np.float32)
        embedding *= np.sqrt(WIDTH) / np.linalg.norm(embedding, axis=1, keepdims=True)
        output = np.zeros_like(embedding)
        for chain in self._chains:
            for before, after in pairwise(chain):
                output[after] += embedding[before] * np.float32(_SURE / WIDTH)
        silent = {name: np.zeros_like(value) for name, value in tensors.items() if ".attn_output" in name or ".ffn_down" in name}
        return {**tensors, **silent, "token_embd.weight": embedding, "output.weight": output}


def make_scripted(
    path: Path | str,
    scripts: dict[str, str],
    *,
    special: dict[str, int] | None = None,
    piece_chars: int = 5,
    endless: tuple[str, ...] = (),
    **options: Any,
) -> Path:
    """As Scripts. `options`: those of make_llama, such as `chat_template`. The template must end with the word that begins a script."""
    made = Scripts(scripts, special, piece_chars, endless)
    return make_llama(path, vocabulary=made.vocabulary, tensors=made.tensors(), **options)
