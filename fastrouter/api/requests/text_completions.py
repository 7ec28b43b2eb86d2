"""Fields that only OpenAI's /v1/completions has: `suffix`, `echo`, `best_of`, and `logprobs` of 0.

Invariant: as in fields.py, accepted values are valid. Others are a 400 that names the field.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from fastrouter.api.requests.checks import boolean, integer, invalid, string
from fastrouter.api.requests.fields import Ask, read_completion
from fastrouter.ipc.messages import Generate

_OWN = ("suffix", "echo", "best_of")
_best_of = integer(1, 128)


@dataclass(slots=True)
class TextAsk(Ask):
    echo: list[str] = field(default_factory=list)  # per prompt: the text at the beginning of its answers
    num_shown: int | None = None  # of the choices of each prompt, the most probable ones; None: all
    has_logprobs: bool = False


def read_text(body: dict[str, Any]) -> TextAsk:
    ask = read_completion({name: value for name, value in body.items() if name not in _OWN})
    given = {name: body[name] for name in _OWN if body.get(name) is not None}
    suffix = string("suffix", given.get("suffix", ""))
    has_echo = boolean("echo", given.get("echo", False))
    best_of = _best_of("best_of", given["best_of"]) if "best_of" in given else None
    has_logprobs = body.get("logprobs") is not None and body["logprobs"] is not False
    found = TextAsk(**{name: getattr(ask, name) for name in Ask.__slots__}, has_logprobs=has_logprobs)
    if has_logprobs:
        found.generates = [replace(generate, logprobs=True) for generate in found.generates]
    if found.pictures.all and (has_echo or suffix):
        raise invalid("echo" if has_echo else "suffix", "cannot be used together with pictures")
    if has_echo and suffix and has_logprobs:
        raise invalid("echo", "cannot be used together with 'logprobs' and 'suffix'")
    if has_echo:
        _set_echo(found, has_logprobs=has_logprobs)
    if suffix:
        found.generates = [_with_suffix(generate, suffix) for generate in found.generates]
    if best_of is not None:
        _choose_best(found, best_of)
    return found


def _set_echo(ask: TextAsk, *, has_logprobs: bool) -> None:
    """A worker must write it if its tokens have probabilities, or if they are all that is known of it."""
    if has_logprobs and any(generate.sampling.get("post_sampling_probs") for generate in ask.generates):
        raise invalid("echo", "cannot be used together with 'logprobs' and 'post_sampling_probs': no token of a prompt was sampled")
    ask.echo = ["" if has_logprobs or not isinstance(generate.prompt, str) else generate.prompt for generate in ask.generates]
    ask.generates = [replace(generate, echoes=not text) for generate, text in zip(ask.generates, ask.echo, strict=True)]


def _with_suffix(generate: Generate, suffix: str) -> Generate:
    """The prompt is the text before the gap."""
    infill = {"prefix": generate.prompt, "suffix": suffix, "extra": []}
    return replace(generate, prompt="", infill=infill)


def _choose_best(ask: TextAsk, best_of: int) -> None:
    n = ask.generates[0].n
    if best_of < n:
        raise invalid("best_of", f"must be at least 'n', which is {n}")
    if best_of == n:
        return
    if ask.is_stream:
        raise invalid("best_of", "cannot be greater than 'n' in a stream: which choice is best is known at the end")
    ask.num_shown = n
    ask.generates = [replace(generate, n=best_of, logprobs=True) for generate in ask.generates]
