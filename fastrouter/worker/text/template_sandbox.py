"""A Jinja environment for templates that were not checked: the sandbox, its limits, and the names Hugging Face templates expect.

Knows no messages or models, nor the use of the text. Invariant: inside `within` a template ends in time, and no string or list that it
makes grows past MAX_OUTPUT_CHARS. C code that works on one value is not interrupted, and a list that holds another one twice, and so on,
is larger than its length: only a strict sandbox, for tame templates, is safe from that; others need a process that can be killed.
"""

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from types import FrameType
from typing import Any, NoReturn, TypeVar

from jinja2 import TemplateError, nodes, pass_eval_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import do_join
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from fastrouter.errors import InvalidRequest

MAX_OUTPUT_CHARS = 16 << 20
MAX_STRICT_CHARS = 1 << 20
_MAX_POWER_BITS = 1 << 16
_MAX_WIDTH = 1 << 8  # of padding, indentation and rows
_HUGE_WIDTH = re.compile(r"[%:{][^\s{}%]{0,8}?\d{8,}")  # "%99999999d", "{:>99999999}"
_NESTED_SPEC = re.compile(r"\{[^{}]*:[^{}]*\{")  # "{:{}}", "{a:>{b}}": a width that is an argument
_here = threading.local()  # `.is_strict`: of the sandbox that works in this thread

T = TypeVar("T")

# ---------------------------------------------------------------- limits


class TookTooLong(InvalidRequest):
    """The render was ended: it took too long, or did what a strict sandbox does not allow."""


class TooMuchMemory(InvalidRequest):
    """The render was ended because it needs too much memory."""

    def __init__(self) -> None:
        super().__init__("chat template: it needs more memory than a template may use")


class _OutOfTime(BaseException):
    """Not an Exception, so that no `except Exception` in Jinja catches it."""


class NotAllowed(_OutOfTime):
    """A strict sandbox does not add or format lists."""


def _with_alarm(seconds: float, work: Callable[[], T]) -> T:
    """`work()`, with _OutOfTime in it after `seconds`. Main thread only: in other threads only the sandbox's own clock ends it."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    is_armed = True

    def expire(signum: int, frame: FrameType | None) -> None:
        if is_armed:
            raise _OutOfTime

    previous = signal.signal(signal.SIGALRM, expire)
    started = time.monotonic()
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        try:
            return work()
        finally:
            is_armed = False  # the alarm comes once: if it comes just before this line, the outer `finally` is safe from it
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if previous is None else previous)
        if remaining:  # a timer of other code continues
            signal.setitimer(signal.ITIMER_REAL, max(1e-3, remaining - (time.monotonic() - started)), interval)


def _capped(size: int) -> None:
    if size > MAX_STRICT_CHARS and getattr(_here, "is_strict", False):
        raise _OutOfTime
    if size > MAX_OUTPUT_CHARS:
        raise OverflowError(f"text or list of more than {MAX_OUTPUT_CHARS} elements")


def _size_after(name: str, text: str, args: tuple[Any, ...]) -> int:
    """A bound for the length of what `text.name(*args)` returns, for the methods of str that can make long texts."""
    first = args[0] if args else 0
    if name in {"center", "ljust", "rjust", "zfill"} and isinstance(first, int):
        return first
    if name == "expandtabs" and isinstance(first, int):
        return text.count("\t") * first
    if name == "replace" and len(args) > 1 and isinstance(first, str) and isinstance(args[1], str):
        return len(text) + text.count(first) * len(args[1])
    if name == "join" and isinstance(first, list | tuple):
        return sum(len(item) + len(text) for item in first if isinstance(item, str))
    if name == "translate" and isinstance(first, dict):
        return len(text) * max([1, *(len(value) for value in first.values() if isinstance(value, str))])
    if name in {"format", "format_map"}:
        return _format_size(text, args)
    return 0


def _format_size(text: str, args: tuple[Any, ...]) -> int:
    """Over the cap if a width in a format string is over it or is not known; a starred width is one of the arguments."""
    widths = [arg for arg in args if isinstance(arg, int)] if "*" in text else []
    return max([MAX_OUTPUT_CHARS + 1 if _HUGE_WIDTH.search(text) or _NESTED_SPEC.search(text) else 0, *widths])


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
    """`{% generation %}` marks the assistant's text for training masks; here only its body counts."""

    tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=lineno)


class Sandbox(ImmutableSandboxedEnvironment):
    """Loop steps, calls and attributes check the clock from time to time; the size of every value is limited."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, *, is_strict: bool = False) -> None:
        """`is_strict`: less is allowed, and anything else ends the render with TookTooLong."""
        self._is_strict = is_strict
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation])
        self.given: tuple[Any, ...] = ()  # lists that a template may not change
        self.at = 0.0  # Unix time that it shows; 0: now
        self._deadline = 0.0  # of time.monotonic
        self._num_ticks = 0
        self.filters.update(tojson=_to_json, join=_join, replace=_replace, format=_format, ticking=self._ticking)
        for name in ("center", "indent", "batch", "slice"):
            self.filters[name] = _limited(self.filters[name])
        self.globals.update(raise_exception=_raise_exception, strftime_now=self._strftime_now, namespace=_Namespace)
        del self.globals["lipsum"]

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.at) if self.at else datetime.now()

    def _strftime_now(self, pattern: str) -> str:
        return self.now().strftime(pattern)

    def within(self, seconds: float, work: Callable[[], T]) -> T:
        """`work()`, or TookTooLong."""
        self._deadline = time.monotonic() + seconds
        _here.is_strict = self._is_strict
        try:
            return _with_alarm(seconds, work)
        except _OutOfTime:
            raise TookTooLong(f"chat template: not done after {seconds:g} s") from None
        finally:
            _here.is_strict = False

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

    def concat(self, parts: Iterable[str]) -> str:
        size, kept = 0, []
        for part in parts:
            size += len(part)
            _capped(size)
            self.tick()
            kept.append(part)
        return "".join(kept)

    def call(self, context: Context, callee: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.tick()
        method = getattr(callee, "__wrapped__", callee)  # Jinja wraps str.format
        text = getattr(method, "__self__", None)
        if isinstance(text, str):
            _capped(_size_after(method.__name__, text, (*args, *kwargs.values())))
        return super().call(context, callee, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if self._is_strict and (
            isinstance(left, list | tuple) or isinstance(right, list | tuple) or (operator == "%" and isinstance(left, str))
        ):
            raise NotAllowed
        if operator == "*":
            text, times = (right, left) if isinstance(left, int) else (left, right)
            if isinstance(text, str | bytes | list | tuple) and isinstance(times, int):
                _capped(len(text) * times)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > _MAX_POWER_BITS:
            raise OverflowError("number too large")
        elif operator == "%" and isinstance(left, str):
            _capped(_format_size(left, right if isinstance(right, tuple) else (right,)))
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, str | list | tuple):
            _capped(len(result))
        return result

    def getattr(self, obj: Any, attribute: str) -> Any:
        self.tick()
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Some templates collect their output in a list."""
        if attr == "append" and type(obj) is list and not self._is_strict:
            return not any(obj is one for one in self.given)
        return super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} object is unsafe.")


class _Namespace(Namespace):
    def __repr__(self) -> str:
        return "<namespace>"  # one may hold others, many times


def _plain(value: Any) -> Any:
    """Filters such as `map` do not return a list."""
    if isinstance(value, Iterator):
        return list(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(indent, int):
        indent = min(indent, 64)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=_plain)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


@pass_eval_context
def _join(eval_context: EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    def counted() -> Iterator[Any]:
        size = 0
        for item in value:
            size += len(d) + (len(item) if isinstance(item, str) else 0)
            _capped(size)
            yield item

    joined: str = do_join(eval_context, counted(), d, attribute)
    return joined


def _replace(value: Any, old: Any, new: Any, count: int = -1) -> str:
    text, old, new = str(value), str(old), str(new)
    _capped(_size_after("replace", text, (old, new)))
    return text.replace(old, new, count)


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    _capped(_format_size(str(value), args))
    return str(value) % (kwargs or args)


def _limited(function: Any) -> Any:
    """A filter whose numbers must not exceed the greatest width."""

    def limited(value: Any, *args: Any, **kwargs: Any) -> Any:
        for number in (*args, *kwargs.values()):
            if isinstance(number, int) and number > _MAX_WIDTH:
                raise OverflowError(f"{number} is too wide")
        return function(value, *args, **kwargs)

    return limited
