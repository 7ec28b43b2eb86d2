"""The body of Ollama's create -> what its preset section will say. Never imports: api.models, catalog.created.

Invariant: each value is checked here under the name that the client has sent. What cannot be done is refused by name, with the way out.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from fastrouter.api.requests.checks import Check, integer, invalid, json_object, string
from fastrouter.api.requests.fields import FIELDS
from fastrouter.api.requests.ollama_bodies import OPTIONS
from fastrouter.catalog.header_cache import features_of
from fastrouter.config.flag import Flag, Kind, Scope, Setting
from fastrouter.config.table import TABLE
from fastrouter.options.limits import MAX_FIRST_MESSAGES
from fastrouter.options.sampling import SAMPLING, Shape

MAX_STOPS = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,198}")
_NUMBERS = {entry.name for entry in SAMPLING if entry.shape in (Shape.NUMBER, Shape.WHOLE, Shape.SEED, Shape.SWITCH)}
# How a model is loaded: only a model with a file of its own can have these. Their names in Ollama -> our targets and checks.
_LOADING: dict[str, tuple[str, Check]] = {
    "num_ctx": ("ctx_size", integer(0)),
    "num_batch": ("batch_size", integer(1)),
    "num_gpu": ("gpu_layers", integer(-1)),
    "num_thread": ("threads", integer(1)),
}
_REFUSED = {
    "quantize": "is not supported: this server does not quantize. Quantize the file with llama-quantize, then create the model from it",
    "quantization": "is not supported: this server does not quantize. Quantize the file with llama-quantize, then create the model from it",
    "modelfile": "is not supported: send its lines as the fields 'from', 'parameters', 'system', 'template' and 'messages'",
    "path": "is not supported: upload the file with POST /api/blobs, and name it in 'files'",
    "draft": "is not supported: name the draft model with `spec-draft-model` in the file of --models-preset",
}


@dataclass(slots=True)
class NewModel:
    name: str
    base: str = ""  # the model that it is a variant of
    file: str = ""  # or the digest of its uploaded file
    settings: list[Setting] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)  # digests
    system: str = ""
    template: str = ""
    messages: str = ""  # JSON
    notes: list[str] = field(default_factory=list)  # what has no effect


def read_create(body: dict[str, Any]) -> NewModel:
    """Raises InvalidRequest."""
    for name, problem in _REFUSED.items():
        if body.get(name):
            raise invalid(name, problem)
    base = body.get("from")
    files = _digests("files", body.get("files"))
    new = NewModel(new_name("model", body.get("model") or body.get("name")), base="" if base is None else string("from", base))
    if bool(new.base) == bool(files):
        raise invalid("from", "or 'files' must name what the model is made from: another model, or one uploaded GGUF file")
    if len(files) > 1:
        raise invalid("files", f"names {len(files)} files: a model is made from one GGUF file. Merge its parts with llama-gguf-split")
    new.file = next(iter(files.values()), "")
    new.adapters = list(_digests("adapters", body.get("adapters")).values())
    new.system = _text("system", body.get("system"))
    new.template = _template(body.get("template"))
    new.messages = _messages(body.get("messages"))
    _parameters(new, body.get("parameters"))
    return new


def new_name(field_name: str, value: Any) -> str:
    """Of a model that will be made."""
    name = string(field_name, value).removesuffix(":latest")
    if not _NAME.fullmatch(name) or ".." in name or "//" in name:
        raise invalid(
            field_name, "must be a name of letters, digits and . _ - : / that begins with a letter or digit, at most 199 characters"
        )
    return name


def _text(name: str, value: Any) -> str:
    return "" if value is None else string(name, value)


def _template(value: Any) -> str:
    text = _text("template", value)
    if text and "{%" not in text:
        raise invalid(
            "template", "must be a Jinja template, with {% ... %}: templates of Ollama are not. Without it, the model's own is used"
        )
    problem = features_of(text).problem if text else None
    if problem is not None:
        raise invalid("template", f"cannot be used: {problem}")
    return text


def _messages(value: Any) -> str:
    if not value:
        return ""
    if not isinstance(value, list) or len(value) > MAX_FIRST_MESSAGES:
        raise invalid("messages", f"must be a list of at most {MAX_FIRST_MESSAGES} messages")
    found = []
    for index, item in enumerate(value):
        name = f"messages[{index}]"
        message = json_object(name, item)
        if message.get("role") not in ("system", "user", "assistant"):
            raise invalid(f"{name}.role", 'must be "system", "user" or "assistant"')
        found.append({"role": message["role"], "content": string(f"{name}.content", message.get("content"))})
    return orjson.dumps(found).decode()


def _digests(name: str, value: Any) -> dict[str, str]:
    """By the names of the files."""
    given = {} if value is None else json_object(name, value)
    return {key: string(f"{name}.{key[:100]}", digest) for key, digest in given.items()}


# ---------------------------------------------------------------- parameters


def _parameters(new: NewModel, value: Any) -> None:
    for name, given in ({} if value is None else json_object("parameters", value)).items():
        place = f"parameters.{name[:100]}"
        if name == "stop":
            new.settings.append(Setting(_flag("stop"), _stops(place, given)))
        elif name in _LOADING:
            target, check = _LOADING[name]
            checked = check(place, given)
            if new.base:
                new.notes.append(f"{name} has no effect: the model is loaded as {new.base} is")
            else:
                new.settings.append(Setting(_flag(target), checked))
        elif OPTIONS.get(name) in _NUMBERS or OPTIONS.get(name) == "n_predict":
            new.settings.append(_setting(place, OPTIONS[name], given))
        else:
            new.notes.append(f"{name[:100]} has no effect here")


def _setting(place: str, ours: str, value: Any) -> Setting:
    checked = FIELDS[ours].check(place, -1 if ours == "n_predict" and value == -2 else value)
    flag = next((entry for entry in TABLE if entry.target == ours and entry.scope in (Scope.SAMPLING, Scope.MODEL)), None)
    if flag is None:
        raise invalid(place, "can only be set by a request")
    return Setting(flag, checked)


def _flag(target: str) -> Flag:
    return next(entry for entry in TABLE if entry.target == target and entry.scope is Scope.MODEL and entry.kind is not Kind.SWITCH)


def _stops(place: str, value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or len(texts) > MAX_STOPS:
        raise invalid(place, f"must be a text or a list of at most {MAX_STOPS} texts")
    return tuple(string(place, text) for text in texts if text)
