"""Answers that follow a grammar: JSON schemas, GBNF, regular expressions -> which tokens may come next. llguidance does the work.

Owns a model's vocabulary in the form that llguidance needs, the threads that compile, and each sequence's position in its grammar. Never
imports: worker.kv, worker.engine. Invariant: the end of the text is allowed exactly when the text so far is a complete answer.
"""

import contextlib
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, Self

import numpy as np
import orjson

from fastrouter.errors import FastrouterError, InvalidRequest, ModelCannot, Unavailable
from fastrouter.worker.llama.vocab import TOKENIZE_ADDRESS, Vocab
from fastrouter.worker.sampling.compilers import Compilers
from fastrouter.worker.sampling.grammar_limits import check_schema
from fastrouter.worker.sampling.json_grammar import SPACINGS
from fastrouter.worker.sampling.marker_segments import segments_of
from fastrouter.worker.sampling.sampler import Sampler
from fastrouter.worker.sampling.tool_grammar import call_grammar
from fastrouter.worker.sampling.tool_wish import Wish, loosened
from fastrouter.worker.text.parsers.format import Format

_FIRST_FUEL, _STEP_FUEL = 300_000, 50_000  # llguidance's steps at the start and for one mask: at most about 0.1 s and 30 MB
_NUM_KEPT = 8  # compiled grammars
_SPECIAL = b"\xff"  # llguidance expects this at the start of tokens that are not text
_MAX_PROBLEM = 300  # characters of its messages
_Key = tuple[Hashable, ...]
_Source = Callable[[Any], tuple[str, bool]]  # llguidance's tokenizer -> its grammar, and whether the matcher is lazy
_SHORT_SWITCH_S = 0.0005  # the engine's thread must not wait for this one


class Matcher:
    """The position of one sequence in its grammar."""

    __slots__ = ("_bytes", "_mask", "_matcher", "address", "is_lazy")

    def __init__(self, matcher: Any, n_vocab: int, *, is_lazy: bool = False) -> None:
        """`is_lazy`: checking one token first costs much less than computing all."""
        self._matcher = matcher
        self.is_lazy = is_lazy
        self._mask = np.zeros((n_vocab + 31) // 32, np.uint32)
        self._bytes = self._mask.nbytes
        self.address: int = self._mask.ctypes.data  # of one bit for each token, from the last `find_allowed`

    def copy(self) -> Self:
        return type(self)(self._matcher.deep_copy(), 8 * self._bytes, is_lazy=self.is_lazy)

    def find_allowed(self) -> None:
        """Compute which tokens may come next."""
        self._matcher.unsafe_compute_mask_ptr(self.address, self._bytes)

    def allows(self, token: int) -> bool:
        """Whether this token may come next."""
        return token >= 0 and bool(self._matcher.validate_tokens([token]))

    def accept(self, token: int) -> bool:
        """False: the grammar does not allow this token here, or has become too large to continue."""
        accepted: bool = self._matcher.consume_token(token)
        return accepted

    @property
    def is_complete(self) -> bool:
        """The answer is complete and cannot continue."""
        complete: bool = self._matcher.is_stopped()
        return complete

    @property
    def problem(self) -> str:
        """Why it cannot continue; empty when it can."""
        return _in_one_line(self._matcher.get_error())


class ConstrainedSampler(Sampler):
    """Chooses from the tokens that the grammar allows. `sample` returns -1 when there is none, and then `error` says why."""

    def __init__(self, vocab: Vocab, settings: dict[str, Any], load_defaults: dict[str, Any], matcher: Matcher, **options: Any) -> None:
        super().__init__(vocab, settings, load_defaults, **options)
        self._matcher = matcher

    def sample(self, address: int, n_vocab: int, mask: int = 0) -> int:
        matcher = self._matcher
        token = sample_allowed(matcher, super().sample, address, n_vocab)
        if token < 0:
            self.error = no_token(matcher)
            return -1
        self.is_complete = matcher.is_complete
        return token

    def follow(self, token: int, marks: Sequence[int] = ()) -> None:
        super().follow(token, marks)
        self._matcher.accept(token)
        self.is_complete = self._matcher.is_complete


def sample_allowed(matcher: Matcher, sample: Callable[[int, int, int], int], address: int, n_vocab: int) -> int:
    """A token that the matcher allows, and has accepted. -1: there is none."""
    token = sample(address, n_vocab, 0) if matcher.is_lazy else -1
    if not matcher.allows(token):  # what llama-server does with every grammar
        matcher.find_allowed()
        token = sample(address, n_vocab, matcher.address)
    return token if matcher.accept(token) else -1


def no_token(matcher: Matcher) -> FastrouterError:
    return InvalidRequest(f"no token can follow in the answer's grammar: {matcher.problem}")


class Grammars:
    """The compiler of one model."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        self._tokenizer: Any = None
        self._tokenizer_lock = threading.Lock()  # for the threads that compile: the first one makes it
        self._compilers: Compilers[Matcher] = Compilers()
        self._latest: OrderedDict[_Key, Future[Matcher]] = OrderedDict()  # clients send the same schema many times
        self._num_waiting: Counter[Future[Matcher]] = Counter()

    def compile(self, constraint: dict[str, str], whitespace: str = "compact") -> Future[Matcher]:
        """A matcher at the start of the grammar, to be copied for each sequence; or the error of a grammar that cannot be used. Call
        `leave` in the end."""
        field, text = constraint["field"], constraint["text"]
        translate = _TRANSLATE[constraint["kind"]]
        key = (constraint["kind"], field, text, whitespace)
        found = self._start(key, len(text), field, lambda _: translate(text, whitespace))
        self._num_waiting[found] += 1
        return found

    def compile_calls(self, format: Format, wish: Wish, *, after: str | None = None, is_waited_for: bool = True) -> Future[Matcher]:
        """The same for a model's tool calls: see `call_grammar`. A tool whose schema cannot be followed takes any object. Call `leave` in
        the end if `is_waited_for` is set."""
        tools = orjson.dumps(list(wish.tools)).decode()
        key = ("calls", format, after, tools, wish.is_parallel, wish.answer, wish.answer_whitespace)
        field = "response_format" if wish.answer else "tools"  # tools that cannot be followed become loose
        found = self._start(key, len(tools), field, lambda tokenizer: (_of_calls(tokenizer, self._vocab, format, wish, after), True))
        if is_waited_for:
            self._num_waiting[found] += 1
        return found

    def _start(self, key: _Key, num_chars: int, field: str, source: _Source) -> Future[Matcher]:
        found = self._latest.pop(key, None)
        if found is None or found.cancelled() or (found.done() and found.exception()):
            found = self._compilers.submit(partial(self._compile, field, source), num_chars)
        self._latest[key] = found
        if len(self._latest) > _NUM_KEPT:
            self._latest.popitem(last=False)
        return found

    def leave(self, future: "Future[Matcher]") -> None:
        """One request does not wait for it any more. If no request waits, it is not started."""
        self._num_waiting[future] -= 1
        if self._num_waiting[future] < 1:
            del self._num_waiting[future]
            future.cancel()

    def close(self) -> None:
        """Ends all compiling, so that the vocabulary may be freed."""
        self._compilers.close()

    def give_up(self, field: str, num_chars: int, future: "Future[Matcher]") -> FastrouterError:
        """It takes too long. `field`: the field with the grammar; `num_chars`: its length. Returns the error."""
        if not future.running():
            return Unavailable("too many grammars are waiting to be compiled: try again later")
        self._compilers.replace(num_chars)
        return _unusable(field, "it takes too long to compile: make it smaller")

    def _compile(self, field: str, source: _Source) -> Matcher:
        try:
            return self._try_to_compile(field, source)
        except Exception:  # an error of the grammar: its own class says whose fault it is
            raise
        except BaseException as error:  # a panic of the library must cost one request, not the worker
            raise FastrouterError(f"the grammar's compiler failed: {error}") from None

    def _try_to_compile(self, field: str, source: _Source) -> Matcher:
        with self._tokenizer_lock:
            if self._tokenizer is None:
                self._tokenizer = _tokenizer_of(Vocab(self._vocab.pointer))  # this Vocab has a buffer for this thread
        try:
            grammar, is_lazy = source(self._tokenizer)
        except (Exception, RecursionError) as error:  # the converters raise plain Exceptions
            raise _unusable(field, str(error)) from None
        matcher = Matcher(_new_matcher(self._tokenizer, grammar), self._vocab.n_tokens, is_lazy=is_lazy)
        if not matcher.problem:
            matcher.find_allowed()  # some grammars fail only here; slow grammars are slow here, not later
        if matcher.problem:
            raise _unusable(field, matcher.problem)
        return matcher


def _new_matcher(tokenizer: Any, grammar: str) -> Any:
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(initial_lexer_fuel=_FIRST_FUEL, step_lexer_fuel=_STEP_FUEL, verbose_errors=False)
    return LLMatcher(tokenizer, grammar, log_level=0, limits=limits)


def _unusable(field: str, problem: str) -> InvalidRequest:
    """`field`: that of a request, or a flag."""
    name = field if field.startswith("-") else f"field '{field}'"
    return InvalidRequest(f"{name} cannot be followed: {_in_one_line(problem)}")


def shown(constraint: dict[str, str] | None) -> dict[str, Any]:
    """In `generation_settings`: llama-server's `grammar`; schemas and regular expressions as they were given."""
    kind, text = (constraint["kind"], constraint["text"]) if constraint else ("gbnf", "")
    settings: dict[str, Any] = {"grammar": text if kind == "gbnf" else "", "grammar_lazy": False, "grammar_triggers": []}
    if kind != "gbnf":
        settings[kind] = orjson.loads(text) if kind == "json_schema" else text
    return settings


def _in_one_line(problem: str) -> str:
    return " ".join(problem.replace("<non-verbose/>", "").split())[:_MAX_PROBLEM]


def _tokenizer_of(vocab: Vocab) -> Any:
    """About 0.2 s for 50,000 tokens."""
    from llguidance import LLTokenizer

    if not vocab.eog_tokens:
        raise ModelCannot("the model has no token that ends a text, so its answers cannot follow a grammar")
    with _switching_often():
        pieces = [vocab.token_to_piece(token) for token in range(vocab.n_tokens)]
        tokens = [_SPECIAL + piece if vocab.is_special(token) else piece for token, piece in enumerate(pieces)]
        tokenizer: Any = LLTokenizer
        return tokenizer.from_llamacpp(
            tokens=tokens, vocab_ptr=vocab.pointer, tokenize_fptr=TOKENIZE_ADDRESS, eos_token=vocab.eog_tokens, slices=None
        )


@contextlib.contextmanager
def _switching_often() -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_SHORT_SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


# Each returns llguidance's grammar, and whether the matcher should be lazy.


def _of_schema(text: str, whitespace: str) -> tuple[str, bool]:
    from llguidance import LLMatcher

    check_schema(text)
    overrides: Any = SPACINGS[whitespace]
    return LLMatcher.grammar_from_json_schema(text, overrides=overrides), False


def _of_gbnf(text: str, whitespace: str) -> tuple[str, bool]:
    from llguidance import LLMatcher

    from fastrouter.worker.sampling.gbnf_to_lark import to_lark

    lark, is_recursive = to_lark(text)
    return LLMatcher.grammar_from_lark(lark), is_recursive


def _of_regex(text: str, whitespace: str) -> tuple[str, bool]:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_regex(text), False


def _of_calls(tokenizer: Any, vocab: Vocab, format: Format, wish: Wish, after: str | None) -> str:
    from llguidance import LLMatcher

    if wish.answer:
        check_schema(wish.answer)
    segments = partial(segments_of, Vocab(vocab.pointer))

    def grammar_of(wish: Wish) -> str:
        return LLMatcher.grammar_from_lark(call_grammar(format, wish, segments, after=after))

    def is_followed(wish: Wish) -> bool:
        try:
            return not _new_matcher(tokenizer, grammar_of(wish)).get_error()
        except (ValueError, RecursionError):  # it is too large, or too deep to be written in any order
            return False

    free = loosened(wish, is_followed)
    if not free.loose:
        return grammar_of(free)
    ordered = loosened(replace(wish, keeps_order=True), is_followed)  # its grammar is smaller
    return grammar_of(ordered if len(ordered.loose) < len(free.loose) else free)


_TRANSLATE = {"json_schema": _of_schema, "gbnf": _of_gbnf, "regex": _of_regex}
