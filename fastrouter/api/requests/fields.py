"""Request bodies -> Generate: one table of fields for all flavours. Never imports: api.flavours, http.routes.

Invariant: for any body, the result is a valid Generate or an InvalidRequest that names the field. null means absent. A field that only
llama-server has is refused, unless its value means "off". Unknown fields are ignored.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fastrouter.api.requests import constraints
from fastrouter.api.requests.bodies import Ids
from fastrouter.api.requests.chat_messages import check_messages, prefill_of, with_new_names
from fastrouter.api.requests.checks import (
    Check,
    adapter_scales,
    boolean,
    check_of,
    duration,
    guessers,
    integer,
    invalid,
    json_object,
    neutral,
    number,
    one_of,
    short_strings,
    stop_strings,
    string,
)
from fastrouter.api.requests.pictures import Pictures
from fastrouter.api.requests.tools import read_tools
from fastrouter.errors import FastrouterError
from fastrouter.ipc.attached_files import AttachedFiles
from fastrouter.ipc.messages import Generate
from fastrouter.options.guess_types import MAX_GUESSED
from fastrouter.options.limits import FLOAT_MAX
from fastrouter.options.load import REASONING_FORMATS
from fastrouter.options.sampling import MAX_PROBS, SAMPLING

MAX_PASSED_DEPTH = 64  # of values that are sent on as JSON: the wire's encoder and the templates have their own limits
MAX_PROMPTS = 128
MAX_BUDGET_MESSAGE = 2000  # characters; each token of the message is a step


@dataclass(slots=True)
class Ask:
    """One validated request: the generations, and the form of the answer."""

    generates: list[Generate]  # one per prompt
    is_stream: bool = False
    has_usage: bool = False  # stream_options.include_usage
    is_verbose: bool = False
    response_fields: list[str] = field(default_factory=list)
    priority: int = 0  # in the queue; higher first
    keep_alive_s: float | None = None  # how long the model stays loaded afterwards; inf: forever; None: as configured
    has_thoughts_in_content: bool = False  # also in the content, between <think> and </think>
    next_model: str = ""  # the model that the client will ask for next
    id: str = ""  # of the answer, if its client may control it while it is generated
    pictures: Pictures = field(default_factory=Pictures)
    files: AttachedFiles | None = None  # those of the pictures, as workers get them
    ping_interval_s: float | None = None  # None: the server's default; 0 or less: never

    def shorten(self, error: FastrouterError) -> bool:
        """After this error: whether the prompt could be made shorter, so that the request can be tried again."""
        return False


class Field(NamedTuple):
    into: str  # sampling | speculation | generate | constraint | ask | "": checked only
    name: str
    check: Check
    rank: int = 0  # if several names of the same field are given, the lowest is used


def _stream_options(name: str, value: Any) -> bool:
    include_usage = json_object(name, value).get("include_usage")
    return False if include_usage is None else boolean(f"{name}.include_usage", include_usage)


def _lora(name: str, value: Any) -> list[list[Any]] | None:
    """An empty list has no effect, as in llama-server."""
    return adapter_scales(name, value) or None


def _logprobs(name: str, value: Any) -> int:
    """For a text completion: a number."""
    num_probs: int = 0 if value is False else _num_probs(name, value)
    return num_probs


def _budget_message(name: str, value: Any) -> str:
    text = string(name, value)
    if len(text) > MAX_BUDGET_MESSAGE:
        raise invalid(name, f"must have at most {MAX_BUDGET_MESSAGE} characters")
    return text


def _off(name: str, check: Check) -> tuple[str, Field]:
    return name, Field("", name, check)


_max_tokens = integer(-1)
_num_probs = integer(0, MAX_PROBS)
_unit = number(0.0, 1.0, is_clamped=True)

FIELDS: dict[str, Field] = {
    **{field.name: Field("sampling", field.name, check_of(field)) for field in SAMPLING},
    "stream": Field("ask", "is_stream", boolean),
    "stream_options": Field("ask", "has_usage", _stream_options),
    "verbose": Field("ask", "is_verbose", boolean),
    "priority": Field("ask", "priority", integer(-1000, 1000)),
    "next_model": Field("ask", "next_model", string),
    "keep_alive": Field("ask", "keep_alive_s", duration),
    "ttl": Field("ask", "keep_alive_s", duration, 1),
    "response_fields": Field("ask", "response_fields", short_strings),
    "sse_ping_interval": Field("ask", "ping_interval_s", number(-1.0, FLOAT_MAX)),
    "n_predict": Field("generate", "max_tokens", _max_tokens),
    "max_completion_tokens": Field("generate", "max_tokens", _max_tokens, 1),
    "max_tokens": Field("generate", "max_tokens", _max_tokens, 2),
    "n_cmpl": Field("generate", "n", integer(1, 128)),
    "n": Field("generate", "n", integer(1, 128), 1),
    "stop": Field("generate", "stop", stop_strings),
    "cache_prompt": Field("generate", "cache_prompt", boolean),
    "n_cache_reuse": Field("generate", "n_cache_reuse", integer(0)),
    "id_slot": Field("generate", "id_slot", integer(-1)),
    "return_tokens": Field("generate", "return_tokens", boolean),
    "return_progress": Field("generate", "return_progress", boolean),
    "timings_per_token": Field("generate", "timings_per_token", boolean),
    "lora": Field("generate", "lora", _lora),
    "speculative.type": Field("speculation", "types", guessers),
    "speculative.n_max": Field("speculation", "n_max", integer(0, MAX_GUESSED, is_clamped=True)),
    "speculative.n_min": Field("speculation", "n_min", integer(0, MAX_GUESSED, is_clamped=True)),
    "speculative.p_min": Field("speculation", "p_min", _unit),
    "speculative.ngram_size_n": Field("speculation", "ngram_size_n", integer(1, MAX_GUESSED, is_clamped=True)),
    "speculative.ngram_size_m": Field("speculation", "ngram_size_m", integer(0, MAX_GUESSED, is_clamped=True)),
    "speculative.ngram_min_hits": Field("speculation", "ngram_min_hits", integer(1, MAX_GUESSED, is_clamped=True)),
    "logprobs": Field("sampling", "n_probs", _logprobs, 1),
    "top_logprobs": Field("", "top_logprobs", _num_probs),
    "n_keep": Field("generate", "n_keep", integer(-1)),
    "n_indent": Field("generate", "n_indent", integer(0)),
    "t_max_predict_ms": Field("generate", "t_max_predict_ms", integer(-1)),
    "n_discard": Field("generate", "n_discard", integer(0)),
    "parallel_tool_calls": Field("generate", "parallel_tool_calls", boolean),
    "parse_tool_calls": Field("generate", "parses_calls", boolean),
    "hold_tool_calls": Field("generate", "holds_calls", boolean),
    "reasoning_format": Field("generate", "reasoning_format", one_of("", *REASONING_FORMATS)),
    "reasoning_budget_tokens": Field("generate", "reasoning_budget", integer(-1)),
    "thinking_budget_tokens": Field("generate", "reasoning_budget", integer(-1), 1),
    "reasoning_budget_message": Field("generate", "reasoning_budget_message", _budget_message),
    "reasoning_control": Field("generate", "reasoning_control", boolean),
    "backend_sampling": Field("", "backend_sampling", boolean),
    "response_format": Field("constraint", "response_format", constraints.response_format),
    "json_schema": Field("constraint", "json_schema", constraints.json_schema),
    "grammar": Field("constraint", "grammar", constraints.grammar),
    "json_whitespace": Field("generate", "json_whitespace", constraints.whitespace),
    "regex": Field("constraint", "regex", constraints.regex),
    **dict(
        [
            _off("echo", neutral(False)),
            _off("best_of", neutral(1)),
            _off("suffix", neutral("")),
        ]
    ),
}


def read_chat(body: dict[str, Any]) -> Ask:
    into = _read_fields({**body, "logprobs": None})
    num_probs = _chat_probabilities(body)
    if num_probs is not None:
        into["sampling"]["n_probs"] = num_probs
        into["generate"]["logprobs"] = True
    pictures = Pictures()
    into["generate"].update(chat_input(body, pictures))
    if pictures.all:
        into["ask"]["pictures"] = pictures
        into["generate"]["pictures"] = pictures.marks
    _settle_calls(into["generate"])
    _settle_thoughts(into)
    return _ask(into, [{}])


def _settle_calls(generate: dict[str, Any]) -> None:
    """Who names one function wants one call of it, as in OpenAI's API."""
    choice = generate.get("tool_choice")
    if isinstance(choice, dict) and choice["required"] and len(choice["names"]) == 1:
        generate.setdefault("parallel_tool_calls", False)


def _settle_thoughts(into: dict[str, dict[str, Any]]) -> None:
    """deepseek-legacy: thoughts stay in the content; a whole answer also has them separately."""
    if into["generate"].get("reasoning_format") == "deepseek-legacy":
        into["ask"]["has_thoughts_in_content"] = True
        into["generate"]["reasoning_format"] = "none" if into["ask"].get("is_stream") else "deepseek"


def read_completion(body: dict[str, Any], *, is_verbose: bool = False) -> Ask:
    """`is_verbose`: as if the body had `verbose`."""
    into = _read_fields(body)
    if is_verbose:
        into["ask"]["is_verbose"] = True
    pictures = Pictures()
    prompts = read_prompts(body.get("prompt"), pictures)
    if pictures.all:
        into["ask"]["pictures"] = pictures
    return _ask(into, prompts)


def _chat_probabilities(body: dict[str, Any]) -> int | None:
    """For a chat: whether probabilities are shown, and how many."""
    asked, count = body.get("logprobs"), body.get("top_logprobs")
    if asked is True:
        return 20 if count is None else int(count)
    if asked not in (None, False, 0):
        raise invalid("logprobs", "must be true or false")
    if count:
        raise invalid("top_logprobs", "requires logprobs to be set to true")
    return None


def read_terms(body: dict[str, Any]) -> tuple[int, float | None]:
    """(`priority` in the queue, how long the model stays loaded afterwards or None), for requests that do not generate."""
    found = _read_fields({name: body[name] for name in ("priority", "keep_alive", "ttl") if name in body})["ask"]
    return found.get("priority", 0), found.get("keep_alive_s")


def _read_fields(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    into: dict[str, dict[str, Any]] = {"generate": {}, "sampling": {}, "speculation": {}, "constraint": {}, "ask": {}, "": {}}
    ranks: dict[str, int] = {}
    for key, value in body.items():
        known = FIELDS.get(key)
        if known is None or value is None:
            continue
        checked = known.check(key, value)
        if known.rank <= ranks.get(known.name, known.rank):
            ranks[known.name] = known.rank
            into[known.into][known.name] = checked
    return into


def _ask(into: dict[str, dict[str, Any]], prompts: list[dict[str, Any]]) -> Ask:
    fields, ask = into["generate"], into["ask"]
    fields["sampling"] = {name: value for name, value in into["sampling"].items() if value is not None}
    fields["speculation"] = into["speculation"]
    fields["constraint"] = constraints.only_one(into["constraint"], has_tools="tools" in fields)
    if fields["sampling"].get("n_probs"):
        fields["logprobs"] = True
    fields["verbose"] = ask.get("is_verbose", False)
    if ask.get("is_stream"):
        fields["tokens_per_event"] = fields.pop("return_tokens", False)
    else:
        fields["timings_per_token"] = fields["return_progress"] = False
        fields["holds_calls"] = True
    return Ask([Generate(**fields, **prompt) for prompt in prompts], **ask)


def chat_input(body: dict[str, Any], pictures: Pictures) -> dict[str, Any]:
    """The fields of a chat that make the prompt; also what /apply-template takes. `pictures` gets those in the messages."""
    messages = with_new_names(check_messages(body.get("messages"), pictures))
    tools, tool_choice = read_tools(body)
    found: dict[str, Any] = {"messages": messages, "chat_template_kwargs": _template_kwargs(body), **prefill_of(body, messages)}
    if tool_choice != "none":
        found["tools"] = tools
        found["tool_choice"] = tool_choice
    for name in ("messages", "tools", "chat_template_kwargs"):
        if name in found and is_deeper_than(found[name], MAX_PASSED_DEPTH):
            raise invalid(name, f"is nested deeper than {MAX_PASSED_DEPTH} levels")
    return found


def _template_kwargs(body: dict[str, Any]) -> dict[str, Any]:
    given = body.get("chat_template_kwargs")
    kwargs = {} if given is None else dict(json_object("chat_template_kwargs", given))
    if not isinstance(kwargs.get("enable_thinking", True), bool):
        raise invalid("chat_template_kwargs.enable_thinking", "must be true or false")
    effort = body.get("reasoning_effort")
    if effort is not None and string("reasoning_effort", effort):
        if effort == "none":
            kwargs["enable_thinking"] = False
            kwargs.pop("reasoning_effort", None)
        else:
            kwargs["reasoning_effort"] = effort
    return kwargs


def is_deeper_than(value: Any, depth: int) -> bool:
    """Breadth first, so that deep input does not need a deep stack."""
    level = [value]
    for _ in range(depth):
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item) if isinstance(child, dict | list)]
        if not level:
            return False
    return True


_token_id = integer(0)


def read_prompts(value: Any, pictures: Pictures) -> list[dict[str, Any]]:
    """The fields of Generate for each prompt. Text, token ids or a mix are one prompt; a list of texts or of lists is several prompts."""
    if value is None:
        raise invalid("prompt", "is missing")
    if not isinstance(value, list):
        return [_read_prompt("prompt", value, pictures)]
    if not value:
        raise invalid("prompt", "must not be empty")
    has_numbers = any(type(item) is int for item in value)
    if has_numbers and all(isinstance(item, str | int) for item in value):
        return [_read_prompt("prompt", value, pictures)]
    if len(value) > MAX_PROMPTS:
        raise invalid("prompt", f"holds more than {MAX_PROMPTS} prompts")
    return [_read_prompt(f"prompt[{index}]", item, pictures) for index, item in enumerate(value)]


def _read_prompt(name: str, value: Any, pictures: Pictures) -> dict[str, Any]:
    if isinstance(value, str | Ids):
        return {"prompt": value}  # on the wire, ids are a list again
    if isinstance(value, dict) and isinstance(value.get("prompt_string"), str):
        num_before = len(pictures.all)
        text = pictures.add_prompt(name, value)
        return {"prompt": text, "pictures": pictures.marks[num_before:], "first_picture": num_before}
    if isinstance(value, list) and value:
        return {"prompt": [item if isinstance(item, str) else _token_id("prompt", item) for item in value]}
    raise invalid("prompt", "must be a string, a list of token ids, or a list of these")
