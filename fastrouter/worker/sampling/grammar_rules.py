"""The rules of a Lark grammar for llguidance, made one after the other. Pure. Knows no schema and no format of calls."""

from collections.abc import Iterable, Sequence
from itertools import count

import orjson

MAX_CHARACTERS = 4 << 20  # of a grammar: each parameter's schema may bring all definitions, so a small schema may make a large one
MAX_IN_ANY_ORDER = 60  # llguidance remembers in 64 bits which parts have been written

Part = tuple[str, bool]  # terms, and whether they must be there


class Rules:
    def __init__(self) -> None:
        self._numbers = count()
        self._rules: list[str] = []
        self._num_characters = 0

    def __repr__(self) -> str:
        return f"<Rules {len(self._rules)} with {self._num_characters} characters>"

    def text(self, start: str) -> str:
        """The grammar whose texts are `start`."""
        return "\n".join([f"start: {start}", *self._rules]) + "\n"

    def new_name(self) -> str:
        """For a rule that refers to itself. Call `define` later."""
        return f"r{next(self._numbers)}"

    def define(self, name: str, body: str) -> None:
        self._num_characters += len(body)
        if self._num_characters > MAX_CHARACTERS:
            raise ValueError(f"the grammar of the calls has more than {MAX_CHARACTERS >> 20} MiB: use fewer tools, or smaller schemas")
        self._rules.append(f"{name}: {body}")

    def add(self, body: str, attributes: str = "") -> str:
        """Returns the name of the new rule."""
        name = self.new_name()
        self.define(name + attributes, body)
        return name

    def any_of(self, bodies: Iterable[str]) -> str:
        return self.add(" | ".join(bodies))

    def in_any_order(self, parts: Sequence[Part], comma: str, *, keeps_order: bool = False) -> str:
        """Each part at most once, the needed ones exactly once, with `comma` (terms; empty: nothing) between them. Many parts, or those of
        a grammar that keeps their order: the needed ones, then the others."""
        needed, others = [terms for terms, is_needed in parts if is_needed], [terms for terms, is_needed in parts if not is_needed]
        if keeps_order or not 1 < len(parts) <= MAX_IN_ANY_ORDER:
            return self._in_order(needed, others, comma)
        return self._unordered([self.add(terms) for terms in (*needed, *others)], len(needed), comma)

    def _unordered(self, names: list[str], num_needed: int, comma: str) -> str:
        """The bits of the rule's parameter say which parts have been written; those of the needed parts come first."""
        rest = self.new_name()
        end = f'"" %if is_ones([0:{num_needed}])' if num_needed else '""'
        following = [f"{comma} {name} {rest}::set_bit({bit}) %if bit_clear({bit})" for bit, name in enumerate(names)]
        self.define(f"{rest}::_", " | ".join([end, *following]))
        if not comma:
            return f"{rest}::0x0"
        first = self.any_of(f"{name} {rest}::{1 << bit:#x}" for bit, name in enumerate(names))
        return first if num_needed else f"({first})?"

    def _in_order(self, needed: list[str], others: list[str], comma: str) -> str:
        rest, firsts = "", []
        for terms in reversed(others):  # each rule: this one or not, then those behind it
            one = self.add(terms)
            firsts.append(f"{one} {rest}")
            rest = self.add(f"({comma} {one})? {rest}")
        if needed:
            return f" {comma} ".join(needed) + f" {rest}"
        return f"({self.any_of(reversed(firsts))})?" if firsts else ""


def quoted(text: str) -> str:
    """A term for this text; also the text as JSON."""
    return orjson.dumps(text).decode()
