"""The probabilities of a prompt's tokens, for an answer that begins with its prompt. Never imports: worker.llama.context.

Invariant: each token of the prompt has one entry, in order. A BOS that the user has not written has none.
"""

import ctypes

import numpy as np
from numpy.typing import NDArray

from fastrouter.worker.sequence import Sequence


def read_prompt(sequence: Sequence, start: int, end: int, address: int, n_vocab: int, added_bos: int) -> int:
    """Tokens [start, end) were computed; `address`: their logits. Each row says how likely the token after it was. Returns the number of
    rows before the one from which the next token is sampled, if that is one of them. `added_bos`: what texts begin with; -1: nothing."""
    prompt, found = sequence.prefix, sequence.probabilities
    assert found is not None
    if start == 0:
        is_hidden = prompt[0] == added_bos and isinstance(sequence.request.generate.prompt, str)
        sequence.prompt_entries = [] if is_hidden else [found.made_unknown(prompt[0])]
    num_shown = int(sequence.sampler.settings()["n_probs"])
    num_rows = min(end, len(prompt) - 1) - start
    if num_rows > 0:
        rows = np.frombuffer(ctypes.string_at(address, 4 * num_rows * n_vocab), dtype=np.float32).reshape(num_rows, n_vocab)
        for row, token in zip(rows, prompt[start + 1 :], strict=False):
            sequence.prompt_entries.append(found.made(token, _likely(row, token, num_shown)))
    return num_rows


def _likely(logits: NDArray[np.float32], token: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """(probability of the token, the most likely tokens with theirs), as LogitSampler.probabilities."""
    values = logits.astype(np.float64)
    weights = np.exp(values - values.max())
    total = weights.sum()
    best = np.argpartition(weights, -count)[-count:] if 0 < count < len(weights) else np.arange(len(weights) if count else 0)
    order = sorted(best.tolist(), key=lambda index: (-weights[index], index))
    return float(weights[token] / total), [(index, float(weights[index] / total)) for index in order]
