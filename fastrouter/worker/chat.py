"""Chat messages to a prompt's text, through the model's own Jinja template.

Owns the sandbox, its limits (time, size) and what is done to messages for templates that cannot take them as OpenAI writes them. Must never know
tokens, models or HTTP. Invariant: a template is untrusted code: whatever it does, `render` returns a string or raises InvalidRequest.
"""

import json
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from types import FrameType
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes, pass_eval_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import do_join
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fastrouter.errors import FastrouterError, InvalidRequest

MAX_SOURCE_CHARS = 1 << 20
MAX_OUTPUT_CHARS = 16 << 20  # of the prompt, and of every string and list on the way to it
MAX_SECONDS = 5.0
_MAX_POWER_BITS = 1 << 16
_MAX_MESSAGE_CHARS = 2000

Message = dict[str, Any]

# ---------------------------------------------------------------- templates with a name


def _turns(turn: str, prompt: str = "", start: str = "") -> str:
    return f"{start}{{% for message in messages %}}{turn}{{% endfor %}}{{% if add_generation_prompt %}}{prompt}{{% endif %}}"


def _by_role(system: str, user: str, assistant: str) -> str:
    return f"{{% if message.role == 'system' %}}{system}{{% elif message.role == 'user' %}}{user}{{% else %}}{assistant}{{% endif %}}"


def _llama2(system: str) -> str:
    turn = _by_role(system, "{{ message.content + ' [/INST]' }}", "{{ message.content + '</s>' }}{% set ns.is_open = false %}")
    opening = "{% if not ns.is_open %}{{ '[INST] ' }}{% set ns.is_open = true %}{% endif %}"
    return _turns(opening + turn, start="{% set ns = namespace(is_open=false) %}")


def _mistral(before: str, after: str) -> str:
    """Up to v3 the system message is part of the first instruction."""
    system, user = "{{ message.content + '\\n\\n' }}", f"{{{{ message.content + '{before}[/INST]' }}}}"
    turn = _by_role(system, user, f"{{{{ '{after}' + message.content + '</s>' }}}}{{% set ns.is_open = false %}}")
    opening = f"{{% if not ns.is_open %}}{{{{ '{before}[INST]{after}' }}}}{{% set ns.is_open = true %}}{{% endif %}}"
    return _turns(opening + turn, start="{% set ns = namespace(is_open=false) %}")


def _mistral_v7(space: str) -> str:
    system = f"{{{{ '[SYSTEM_PROMPT]{space}' + message.content + '[/SYSTEM_PROMPT]' }}}}"
    return _turns(_by_role(system, f"{{{{ '[INST]{space}' + message.content + '[/INST]' }}}}", f"{{{{ '{space}' + message.content + '</s>' }}}}"))


_CONTENT = "{{ message.content }}"
_GEMMA = (
    "{% if message.role == 'system' %}{% set ns.system = ns.system + message.content|trim %}{% else %}"
    r"{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' }}"
    r"{% if ns.system and message.role != 'assistant' %}{{ ns.system + '\n\n' }}{% set ns.system = '' %}{% endif %}"
    r"{{ message.content|trim + '<end_of_turn>\n' }}{% endif %}"
)

BUILT_IN = {
    "chatml": _turns(r"{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}", r"{{ '<|im_start|>assistant\n' }}"),
    "llama2": _llama2(r"{{ message.content + '\n' }}"),
    "llama2-sys": _llama2(r"{{ '<<SYS>>\n' + message.content + '\n<</SYS>>\n\n' }}"),
    "llama3": _turns(
        r"{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content|trim + '<|eot_id|>' }}",
        r"{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
    ),
    "mistral-v1": _mistral(" ", " "),
    "mistral-v3": _mistral("", " ").replace("' ' + message.content +", "' ' + message.content|trim +"),
    "mistral-v3-tekken": _mistral("", ""),
    "mistral-v7": _mistral_v7(" "),
    "mistral-v7-tekken": _mistral_v7(""),
    "gemma": _turns(_GEMMA, r"{{ '<start_of_turn>model\n' }}", "{% set ns = namespace(system='') %}"),
    "phi3": _turns(r"{{ '<|' + message.role + '|>\n' + message.content + '<|end|>\n' }}", r"{{ '<|assistant|>\n' }}"),
    "phi4": _turns("{{ '<|im_start|>' + message.role + '<|im_sep|>' + message.content + '<|im_end|>' }}", "<|im_start|>assistant<|im_sep|>"),
    "falcon3": _turns(r"{{ '<|' + message.role + '|>\n' + message.content + '\n' }}", r"{{ '<|assistant|>\n' }}"),
    "zephyr": _turns(r"{{ '<|' + message.role + '|>\n' + message.content + '<|endoftext|>\n' }}", r"{{ '<|assistant|>\n' }}"),
    "deepseek": _turns(
        _by_role(
            _CONTENT, r"{{ '### Instruction:\n' + message.content + '\n' }}", r"{{ '### Response:\n' + message.content + '\n<|EOT|>\n' }}"
        ),
        r"{{ '### Response:\n' }}",
    ),
    "deepseek2": _turns(
        _by_role(
            r"{{ message.content + '\n\n' }}",
            r"{{ 'User: ' + message.content + '\n\n' }}",
            "{{ 'Assistant: ' + message.content + '<｜end▁of▁sentence｜>' }}",
        ),
        "Assistant:",
    ),
    "deepseek3": _turns(
        _by_role(
            r"{{ message.content + '\n\n' }}",
            "{{ '<｜User｜>' + message.content }}",
            "{{ '<｜Assistant｜>' + message.content + '<｜end▁of▁sentence｜>' }}",
        ),
        "<｜Assistant｜>",
    ),
}

# ---------------------------------------------------------------- limits


class _OutOfTime(BaseException):
    """Not an Exception: no `except Exception` in Jinja may swallow it."""


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raises _OutOfTime in the block after `seconds`; main thread only, elsewhere the sandbox's own clock has to do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_armed = True

    def expire(signum: int, frame: FrameType | None) -> None:
        if is_armed:
            raise _OutOfTime

    previous = signal.signal(signal.SIGALRM, expire)
    started = time.monotonic()
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        is_armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if previous is None else previous)
        if remaining:  # somebody else's timer goes on
            signal.setitimer(signal.ITIMER_REAL, max(1e-3, remaining - (time.monotonic() - started)), interval)


def _capped(size: int) -> None:
    if size > MAX_OUTPUT_CHARS:
        raise OverflowError(f"text or list of more than {MAX_OUTPUT_CHARS} elements")


def _size_after(name: str, text: str, args: tuple[Any, ...]) -> int:
    """A bound for what `text.name(*args)` returns, for the methods of str that can blow it up."""
    first = args[0] if args else 0
    if name in {"center", "ljust", "rjust", "zfill"} and isinstance(first, int):
        return first
    if name == "expandtabs" and isinstance(first, int):
        return text.count("\t") * first
    if name == "replace" and len(args) > 1 and isinstance(first, str) and isinstance(args[1], str):
        return len(text) + text.count(first) * len(args[1])
    if name == "join" and isinstance(first, list | tuple):
        return sum(len(item) + len(text) for item in first if isinstance(item, str))
    if name in {"format", "format_map"}:
        return max(map(_widest, (text, *args)), default=0)
    return 0


def _widest(value: Any) -> int:
    """The largest number in a format string, or the number that a nested field may take as its width."""
    if isinstance(value, str):
        return max((int(digits[:12]) for digits in re.findall(r"\d+", value)), default=0) if "{" in value or "%" in value else 0
    return value if isinstance(value, int) else 0


# ---------------------------------------------------------------- the sandbox


class _Generator(CodeGenerator):
    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        """`a ~ b`, with a cap."""
        self.write("environment.concat(map(str, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write(")))")


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text for training masks; here it is only its body."""

    tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=lineno)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Every loop step, call and attribute looks at the clock now and then; everything that grows is capped."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation])
        self._deadline = 0.0  # of time.monotonic
        self._num_ticks = 0
        self.filters.update(tojson=_to_json, join=_join, ticking=self._ticking)
        for name in ("center", "indent", "batch", "slice"):
            self.filters[name] = _limited(self.filters[name])
        self.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
        del self.globals["lipsum"]

    @contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        self._deadline = time.monotonic() + seconds
        try:
            with _alarm(seconds):
                yield
        except _OutOfTime:
            raise InvalidRequest(f"chat template: not done after {seconds:g} s") from None

    def tick(self) -> None:
        self._num_ticks += 1
        if not self._num_ticks & 63 and time.monotonic() > self._deadline:
            raise _OutOfTime

    def _ticking(self, items: Any) -> Iterator[Any]:
        for item in items:
            self.tick()
            yield item

    def _generate(self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False) -> str:
        for loop in list(source.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, "ticking", [], [], None, None, lineno=loop.lineno, environment=self)
        return super()._generate(source, name, filename, defer_init)

    def concat(self, parts: Iterable[str]) -> str:  # type: ignore[override]  # Jinja has "".join here
        size, kept = 0, []
        for part in parts:
            size += len(part)
            _capped(size)
            self.tick()
            kept.append(part)
        return "".join(kept)

    def call(self, context: Context, callee: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.tick()
        text = getattr(callee, "__self__", None)
        if isinstance(text, str):
            _capped(_size_after(callee.__name__, text, (*args, *kwargs.values())))
        return super().call(context, callee, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            text, times = (right, left) if isinstance(left, int) else (left, right)
            if isinstance(text, str | list | tuple) and isinstance(times, int):
                _capped(len(text) * times)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > _MAX_POWER_BITS:
            raise OverflowError("number too large")
        elif operator == "%" and isinstance(left, str):
            _capped(max(map(_widest, (left, *(right if isinstance(right, tuple) and "*" in left else ())))))
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, str | list | tuple):
            _capped(len(result))
        return result

    def getattr(self, obj: Any, attribute: str) -> Any:
        self.tick()
        return super().getattr(obj, attribute)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} object is unsafe.")


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | str | None = None, separators: tuple[str, str] | None = None, sort_keys: bool = False
) -> str:
    if isinstance(indent, int):
        _capped(indent * 64)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


@pass_eval_context
def _join(eval_context: EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    def counted() -> Iterator[Any]:
        size = 0
        for item in value:
            size += len(d) + (len(item) if isinstance(item, str) else 0)
            _capped(size)
            yield item

    return do_join(eval_context, counted(), d, attribute)


def _limited(function: Any) -> Any:
    """A filter whose numbers may not be larger than a text may be long."""

    def limited(value: Any, *args: Any, **kwargs: Any) -> Any:
        for number in (*args, *kwargs.values()):
            if isinstance(number, int):
                _capped(number)
        return function(value, *args, **kwargs)

    return limited
