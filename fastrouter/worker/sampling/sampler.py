"""Request fields -> the sampler of one sequence. Never imports: worker.sequence, worker.llama.context.

Order of each setting: the request, the model's defaults (flags, preset), those in its file, those of llama-server.
"""

import math
import os
from collections.abc import Sequence
from typing import Any

from fastrouter._core import ADAPTIVE, LogitSampler
from fastrouter.errors import FastrouterError, InvalidRequest
from fastrouter.options.limits import UINT32_MAX
from fastrouter.options.samplers import defaults_of
from fastrouter.options.sampling import defaults
from fastrouter.worker.llama.model import Model
from fastrouter.worker.llama.vocab import Vocab
from fastrouter.worker.resumed import mu_words
from fastrouter.worker.sampling.dry_breakers import dry_breakers_of

DEFAULTS = defaults()
RANDOM_SEEDS = (-1, UINT32_MAX)


class Sampler(LogitSampler):
    """See `_core.LogitSampler` for `sample`, `accept` and `prime`."""

    is_complete = False  # the answer is complete and cannot continue
    error: FastrouterError | None = None  # why `sample` returned no token

    def __init__(
        self,
        vocab: Vocab,
        settings: dict[str, Any],
        load_defaults: dict[str, Any],
        *,
        choice: int = 0,
        chance: int = 0,
        has_probabilities: bool = False,
    ) -> None:
        """`choice`: several choices of one request get different seeds. `chance` decides the seed if none is set; 0: the system does.
        `has_probabilities`: each sample sets `probabilities`."""
        merged = {**DEFAULTS, **load_defaults, **settings}
        seed = int(merged["seed"])
        seed = _random_seed(chance, choice) if seed in RANDOM_SEEDS else seed + choice
        self.is_after: bool = merged["post_sampling_probs"]  # the probabilities are those after the chain
        bias = _bias(vocab, merged["logit_bias"], merged["ignore_eos"])
        shown = [{"token": token, "bias": value if math.isfinite(value) else None} for token, value in bias]
        self._settings = {**merged, "seed": seed, "logit_bias": shown}
        has_dry = merged["dry_multiplier"] != 0
        is_adaptive = ADAPTIVE in merged["samplers"] and merged["adaptive_target"] >= 0
        self.has_mu: bool = merged["mirostat"] != 0 or is_adaptive
        self.has_marks = self.has_mu  # `take_marks` may return some
        self.is_reproducible: bool = merged["temperature"] <= 0 or int(merged["seed"]) not in RANDOM_SEEDS  # the client wants one text
        self._num_probs = merged["n_probs"] if has_probabilities else -1
        super().__init__(
            vocab.n_tokens,
            merged,
            seed=seed,
            breakers=dry_breakers_of(vocab, tuple(merged["dry_sequence_breakers"])) if has_dry else None,
            bias=bias,
            num_probs=self._num_probs,
            is_after=self.is_after,
        )

    def follow(self, token: int, marks: Sequence[int] = ()) -> None:
        """In place of `sample`: another worker has chosen this token. `marks`: see worker/resumed.py. Its probabilities have been sent, so
        only their number counts."""
        if self._num_probs >= 0:
            self.probabilities = 1.0, [(token, 1.0)] * self._num_probs

    def take_marks(self) -> Sequence[int]:
        """What another worker must know in addition to the token that was sampled last."""
        return mu_words(self.mu) if self.has_mu else ()

    def settings(self) -> dict[str, Any]:
        """As llama-server's `generation_settings` shows them."""
        return dict(self._settings)


def _random_seed(chance: int, choice: int) -> int:
    chosen = int.from_bytes(os.urandom(4), "little") if not chance else chance + choice
    return chosen & UINT32_MAX


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


def file_defaults(model: Model) -> dict[str, Any]:
    """The values in the GGUF file."""
    return defaults_of(lambda key: model.meta_value(key))
