"""Request fields -> the sampler of one sequence. Knows the vocabulary and the defaults, but no sequence and no logits.

Precedence of each setting: the request, the model's own defaults (flags, preset), llama-server's defaults.
"""

import math
import os
from typing import Any

from fastrouter._core import LogitSampler
from fastrouter.errors import FastrouterError, InvalidRequest
from fastrouter.worker.llama import Vocab

DEFAULTS: dict[str, Any] = {
    "seed": -1,  # -1 (and its unsigned twin): random
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "min_keep": 0,
    "repeat_last_n": 64,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "logit_bias": [],
    "ignore_eos": False,
}
RANDOM_SEEDS = (-1, 0xFFFFFFFF)
SAMPLERS = ["penalties", "top_k", "top_p", "min_p", "temperature"]


class Sampler(LogitSampler):
    """See `_core.LogitSampler` for `sample`, `accept` and `prime`."""

    is_complete = False  # the answer is whole and cannot go on
    error: FastrouterError | None = None  # why `sample` gave no token

    def __init__(self, vocab: Vocab, settings: dict[str, Any], load_defaults: dict[str, Any]) -> None:
        merged = {**DEFAULTS, **load_defaults, **settings}
        seed = int(merged["seed"])
        if seed in RANDOM_SEEDS:
            seed = int.from_bytes(os.urandom(4), "little")
        self._settings = {**merged, "seed": seed}
        super().__init__(
            vocab.n_tokens,
            temperature=merged["temperature"],
            top_k=merged["top_k"],
            top_p=merged["top_p"],
            min_p=merged["min_p"],
            min_keep=merged["min_keep"],
            seed=seed,
            repeat_last_n=merged["repeat_last_n"],
            repeat_penalty=merged["repeat_penalty"],
            frequency_penalty=merged["frequency_penalty"],
            presence_penalty=merged["presence_penalty"],
            bias=_bias(vocab, merged["logit_bias"], merged["ignore_eos"]),
        )

    def settings(self) -> dict[str, Any]:
        """As llama-server's `generation_settings` shows them."""
        return {**self._settings, "samplers": SAMPLERS}


def _bias(vocab: Vocab, pairs: list[list[Any]], ignore_eos: bool) -> list[tuple[int, float]]:
    found: list[tuple[int, float]] = []
    for token, bias in pairs:
        value = -math.inf if bias is None else float(bias)
        tokens = [token] if isinstance(token, int) else vocab.tokenize(token, add_special=False, parse_special=False)
        for token_id in tokens:
            if not 0 <= token_id < vocab.n_tokens:
                raise InvalidRequest(f"field 'logit_bias' names token {token_id}, but the vocabulary has {vocab.n_tokens}")
            found.append((token_id, value))
    if ignore_eos:
        found += [(token_id, -math.inf) for token_id in vocab.eog_tokens]
    return found
