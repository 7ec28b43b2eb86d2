"""The table of sampling fields. Flags, preset keys, request fields, keys of GGUF files, defaults and `generation_settings` come from it.

Plain data. A new field is a row here, its code in core/sample.pxi, and a line in docs/requests.md.
"""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fastrouter._core import SAMPLERS
from fastrouter.options.limits import FLOAT_MAX, INT32_MAX, UINT32_MAX

MAX_PROBS = 500  # other likely tokens whose probabilities are shown
_MANY = 1e4  # larger values make no difference to a token's chance, or only overflow


class Shape(Enum):
    """The type of a value; each reader of values has one function for each."""

    NUMBER = "number"
    WHOLE = "whole number"
    SWITCH = "true or false"
    SEED = "whole number; a request's is taken modulo 2^32"
    SAMPLERS = "names of samplers, in their order"
    TEXTS = "list of texts"
    BIAS = "pairs of a token and a bias"


class Outside(Enum):
    """What happens to a request's value outside of the range. A value of a flag is always refused, a value of a file is always ignored."""

    REFUSED = "refused"
    CLAMPED = "clamped"
    ABSENT_BELOW = "below: as if it were not there; above: refused"


@dataclass(frozen=True, slots=True)
class SamplingField:
    name: str  # llama-server's name: in requests, in `generation_settings`, and in the core if the core has it
    shape: Shape
    default: Any  # as in llama-server
    low: float = -math.inf
    high: float = math.inf
    outside: Outside = Outside.REFUSED
    flag: str = ""  # all names with dashes, the one that is shown last; "": there is no flag
    flag_low: float | None = None  # when a flag may be below `low`, with the same effect
    env: str = ""  # without LLAMA_ARG_; "": there is none
    help: str = ""  # {:g} is the default
    file_key: str = ""  # after "general.sampling."; "": a file cannot set it

    @property
    def flag_help(self) -> str:
        return self.help.format(self.default)


def _number(name: str, default: float, low: float, high: float, **rest: Any) -> SamplingField:
    return SamplingField(name, Shape.NUMBER, default, low, high, **rest)


def _share(name: str, default: float, **rest: Any) -> SamplingField:
    return _number(name, default, 0.0, 1.0, outside=Outside.CLAMPED, **rest)


def _whole(name: str, default: int, low: int, high: int = INT32_MAX, **rest: Any) -> SamplingField:
    return SamplingField(name, Shape.WHOLE, default, low, high, **rest)


# In the order of llama-server's `generation_settings`, which is also that of `--help`.
SAMPLING: tuple[SamplingField, ...] = (
    SamplingField("seed", Shape.SEED, -1, -1, UINT32_MAX, flag="-s --seed", help="seed ({:g}: random)"),
    _number(
        "temperature", 0.8, 0.0, FLOAT_MAX, outside=Outside.CLAMPED,
        flag="--temperature --temp", env="TEMPERATURE", help="temperature ({:g})", file_key="temp",
    ),
    _number("dynatemp_range", 0.0, -_MANY, _MANY, flag="--dynatemp-range", help="how far the temperature may move ({:g}: off)"),
    _number("dynatemp_exponent", 1.0, -_MANY, _MANY, flag="--dynatemp-exp", help="exponent: how it depends on the entropy ({:g})"),
    _whole(
        "top_k", 40, 0, outside=Outside.CLAMPED,
        flag="--top-k", flag_low=-1, env="TOP_K", help="only the k most likely tokens ({:g}; 0: off)", file_key="top_k",
    ),
    _share("top_p", 0.95, flag="--top-p", env="TOP_P", help="nucleus sampling ({:g}; 1: off)", file_key="top_p"),
    _share("min_p", 0.05, flag="--min-p", env="MIN_P", help="least probability relative to the best ({:g}; 0: off)", file_key="min_p"),
    _number(
        "top_n_sigma", -1.0, -_MANY, _MANY,
        flag="--top-nsigma --top-n-sigma", help="tokens within this number of standard deviations of the best ({:g}: off)",
    ),
    _share(
        "xtc_probability", 0.0,
        flag="--xtc-probability", help="chance that the best tokens are removed ({:g}: off)", file_key="xtc_probability",
    ),
    _share(
        "xtc_threshold", 0.1,
        flag="--xtc-threshold", help="probability from which a token is one of them ({:g}; more than 0.5: off)", file_key="xtc_threshold",
    ),
    _number("typical_p", 1.0, 0.0, _MANY, flag="--typical --typical-p", help="locally typical sampling ({:g}: off)"),
    _whole("repeat_last_n", 64, -1, flag="--repeat-last-n", help="tokens the penalties look at ({:g})", file_key="penalty_last_n"),
    _number(
        "repeat_penalty", 1.0, 1e-3, 1e3, flag="--repeat-penalty", env="REPEAT_PENALTY",
        help="penalty for tokens that appeared before, a factor ({:g}: off)", file_key="penalty_repeat",
    ),
    _number(
        "presence_penalty", 0.0, -_MANY, _MANY,
        flag="--presence-penalty", env="PRESENCE_PENALTY", help="the same, subtracted once ({:g}: off)",
    ),
    _number(
        "frequency_penalty", 0.0, -_MANY, _MANY,
        flag="--frequency-penalty", env="FREQUENCY_PENALTY", help="the same, subtracted for each appearance ({:g}: off)",
    ),
    _number(
        "dry_multiplier", 0.0, -_MANY, _MANY,
        flag="--dry-multiplier", help="DRY, against repetitions of several tokens ({:g}: off)",
    ),
    _number("dry_base", 1.75, 1.0, _MANY, outside=Outside.ABSENT_BELOW, flag="--dry-base", help="DRY's base ({:g})"),
    _whole("dry_allowed_length", 2, 0, flag="--dry-allowed-length", help="repeated tokens that DRY allows ({:g})"),
    _whole("dry_penalty_last_n", 64, -1, flag="--dry-penalty-last-n", help="tokens DRY looks at ({:g}; -1: all)"),
    SamplingField(
        "dry_sequence_breakers", Shape.TEXTS, ("\n", ":", '"', "*"), flag="--dry-sequence-breaker",
        help="text that ends a repetition (newline, colon, quote, star; none: no such text)",
    ),
    _whole(
        "mirostat", 0, 0, 2, outside=Outside.CLAMPED,
        flag="--mirostat", help="Mirostat 1 or 2 instead of other samplers ({:g}: off)", file_key="mirostat",
    ),
    _number("mirostat_tau", 5.0, 0.0, _MANY, flag="--mirostat-ent", help="Mirostat's target ({:g})", file_key="mirostat_tau"),
    _number("mirostat_eta", 0.1, 0.0, _MANY, flag="--mirostat-lr", help="Mirostat's learning rate ({:g})", file_key="mirostat_eta"),
    _number(
        "adaptive_target", -1.0, -1.0, 1.0, outside=Outside.CLAMPED,
        flag="--adaptive-target", help="adaptive_p, if --samplers has it: tokens near this probability ({:g}: off)",
    ),
    _number(
        "adaptive_decay", 0.9, 0.0, 0.99, outside=Outside.CLAMPED,
        flag="--adaptive-decay", help="adaptive_p: how long earlier tokens count ({:g}; about 1/(1-N) tokens)",
    ),
    _whole("min_keep", 0, 0),
    SamplingField(
        "logit_bias", Shape.BIAS, (), flag="-l --logit-bias",
        help="make a token more or less likely: 15043+1 or 15043-1; may be given again",
    ),
    SamplingField("ignore_eos", Shape.SWITCH, False, flag="--ignore-eos", help="continue after the end token"),
    _whole("n_probs", 0, 0, MAX_PROBS),
    SamplingField("post_sampling_probs", Shape.SWITCH, False),
    SamplingField(
        "samplers", Shape.SAMPLERS, SAMPLERS,
        flag="--samplers", help="samplers in their order, for example penalties;top_k;temperature", file_key="sequence",
    ),
)  # fmt: skip


def defaults() -> dict[str, Any]:
    """Name -> default, as in JSON."""
    return {field.name: list(field.default) if isinstance(field.default, tuple) else field.default for field in SAMPLING}
