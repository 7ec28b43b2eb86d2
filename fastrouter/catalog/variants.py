"""What a model's preset adds to each of its requests; and variants: a model under another name, with other such defaults.

Invariant: a variant differs from its base only in what a request could set itself, so both share one process and one KV cache.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastrouter.config.flag import Kind, Layer, Scope
from fastrouter.config.forms import constraint_of, texts_of
from fastrouter.errors import ConfigError
from fastrouter.options.limits import MAX_FIRST_MESSAGES
from fastrouter.system.text_file import read_text

_OF_REQUESTS = ("n_predict", "chat_template", "chat_template_kwargs", "lora", "stop")  # names of load options
_OF_NAMES = ("aliases", "tags")
_OF_VARIANTS = ("base", "system", "messages", "load_on_startup", "")  # "": accepted and dropped


@dataclass(frozen=True, slots=True)
class RequestDefaults:
    """What requests use when they set nothing, in addition to the options of their worker."""

    sampling: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int = -1
    chat_template: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    system: str | None = None  # the system message of chats without one
    messages: tuple[dict[str, Any], ...] = ()  # they begin each chat, after its system message
    stop: tuple[str, ...] = ()
    constraint: dict[str, str] | None = None  # like Generate.constraint
    lora: tuple[tuple[int, float], ...] | None = None  # (adapter id, scale); None: those of the model

    @property
    def is_some(self) -> bool:
        return self != NO_DEFAULTS


NO_DEFAULTS = RequestDefaults()


def text_of(layer: Layer, name: str) -> str | None:
    """A text, or the content of the file that is given instead. Raises ConfigError."""
    if name not in layer:
        return None
    flag, value = layer[name]
    return read_text(Path(value), f"{flag.names[-1]} {value}") if flag.kind is Kind.PATH else str(value)


def system_of(layer: Layer) -> str | None:
    return text_of(layer, "system")


def messages_of(layer: Layer) -> tuple[dict[str, Any], ...]:
    """Raises ConfigError."""
    text = text_of(layer, "messages")
    if text is None:
        return ()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    is_right = isinstance(found, list) and len(found) <= MAX_FIRST_MESSAGES and all(map(_is_message, found))
    if not is_right:
        shape = '[{"role": "user", "content": "text"}, ...]'
        raise ConfigError(
            f"messages-file {layer['messages'].value}: must be a JSON list of at most {MAX_FIRST_MESSAGES} messages, as {shape}"
        )
    return tuple(found)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def check_variant(section: Layer, where: Callable[[str], str]) -> None:
    """Raises ConfigError for a setting of the process that a variant shares. `where` returns the line of a target."""
    for name, (flag, _) in section.items():
        is_of_requests = flag.scope is Scope.SAMPLING or name in (*_OF_REQUESTS, *_OF_NAMES, *_OF_VARIANTS)
        if not is_of_requests:
            raise ConfigError(f"{where(name)} {flag.name}: a variant shares its base's process, so set this in the base")


def adapters_of(section: Layer) -> list[str]:
    """The files of the LoRA adapters that a variant names."""
    return [path for path, _ in section["lora"].value] if "lora" in section else []


def defaults_of(section: Layer, command_line: Layer, base: RequestDefaults, adapters: Sequence[str]) -> RequestDefaults:
    """Of a variant: the settings of its section that the command line does not set. `adapters`: those of the base, in order."""
    own = {name: setting for name, setting in section.items() if name not in command_line}
    own |= {"escape": command_line["escape"]} if "escape" in command_line else {}
    sampling = {name: value for name, (flag, value) in own.items() if flag.scope is Scope.SAMPLING and name != "constraint"}
    return RequestDefaults(
        sampling=sampling | {name: texts_of(own, name) for name in sampling if own[name].flag.kind is Kind.TEXTS},
        constraint=constraint_of(own["constraint"]) if "constraint" in own else None,
        max_tokens=own["n_predict"].value if "n_predict" in own else -1,
        chat_template=text_of(own, "chat_template"),
        chat_template_kwargs=own["chat_template_kwargs"].value if "chat_template_kwargs" in own else {},
        system=base.system if "system" not in own else system_of(own),
        messages=base.messages if "messages" not in own else messages_of(own),
        stop=texts_of(own, "stop") if "stop" in own else (),
        lora=tuple((adapters.index(path), scale) for path, scale in own["lora"].value) if "lora" in own else None,
    )


def chain_of(name: str, bases: Mapping[str, str], place: str) -> list[str]:
    """The variant, its base, the base's base, ... down to a model; `bases`: variant -> base. Raises ConfigError for a circle."""
    chain = [name]
    while (base := bases.get(chain[-1])) is not None:
        if base in chain:
            raise ConfigError(f"{place} base: {' -> '.join([*chain, base])} is a circle")
        chain.append(base)
    return chain
