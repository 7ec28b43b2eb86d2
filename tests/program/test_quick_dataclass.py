"""Classes of quick_dataclass behave like those of the standard library: each test makes the same class with both."""

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import field
from typing import Any

import pytest

from fastrouter.catalog.gguf import Header
from fastrouter.config.config import Config
from fastrouter.ipc.messages import Generate, Submit
from fastrouter.options.load import LoadOptions
from fastrouter.quick_dataclass import dataclass


def plain() -> type[Any]:
    class Plain:
        number: int
        name: str = "x"
        items: list[int] = field(default_factory=list)
        hidden: int = field(default=3, repr=False)
        ignored: int = field(default=4, compare=False)
        unhashed: int = field(default=5, hash=False)
        fixed: int = field(default=6, init=False)

    return Plain


def named() -> type[Any]:
    class Named:
        a: int
        b: int = field(default=1, kw_only=True)
        c: list[int] = field(default_factory=list, kw_only=True)

    return Named


def empty() -> type[Any]:
    class Empty:
        pass

    return Empty


def checked() -> type[Any]:
    class Checked:
        """Its own words, its own order, and a check."""

        low: int = 0
        high: int = 9

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low > high")

        def __repr__(self) -> str:
            return f"<{self.low} to {self.high}>"

        def __eq__(self, other: object) -> bool:
            return isinstance(other, type(self)) and self.low == other.low

        @property
        def width(self) -> int:
            return self.high - self.low

    return Checked


def both(make: Callable[[], type[Any]], **more: Any) -> tuple[Any, Any]:
    """The same class from the standard library, and from here."""
    return dataclasses.dataclass(frozen=True, slots=True, **more)(make()), dataclass(frozen=True, slots=True, **more)(make())


def outcome(action: Callable[[], Any]) -> Any:
    try:
        return repr(action())
    except Exception as error:
        return type(error)


CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    ((1,), {}),
    ((1, "y", [2]), {}),
    ((1,), {"items": [1], "hidden": 7, "ignored": 8, "unhashed": 9}),
    ((1,), {"fixed": 1}),
    ((1, 2), {}),
    ((1,), {"b": 2, "c": [3]}),
    ((9, 1), {}),
    ((), {"low": 2}),
    ((1,), {"nothing": 0}),
]


@pytest.mark.parametrize("make", [plain, named, empty, checked])
@pytest.mark.parametrize("kw_only", [False, True])
def test_they_are_made_and_shown_alike(make: Callable[[], type[Any]], kw_only: bool) -> None:
    theirs, ours = both(make, kw_only=kw_only)
    for args, kwargs in CALLS:
        assert outcome(lambda: ours(*args, **kwargs)) == outcome(lambda: theirs(*args, **kwargs)), (args, kwargs)  # noqa: B023
    assert ours.__match_args__ == theirs.__match_args__
    assert ours.__slots__ == theirs.__slots__
    names = [f.name for f in dataclasses.fields(theirs)]
    assert [f.name for f in dataclasses.fields(ours)] == names


def test_they_compare_and_hash_alike() -> None:
    theirs, ours = both(plain)
    values: list[dict[str, Any]] = [
        {"number": 1, "items": ()},
        {"number": 1, "items": (), "ignored": 0},
        {"number": 1, "items": (), "hidden": 0},
        {"number": 1, "items": (), "unhashed": 0},
        {"number": 2, "items": ()},
    ]
    for one in values:
        for other in values:
            assert (ours(**one) == ours(**other)) == (theirs(**one) == theirs(**other))
            same_hash = hash(theirs(**one)) == hash(theirs(**other))
            assert (hash(ours(**one)) == hash(ours(**other))) == same_hash
        assert ours(**one) != theirs(**one), "of another class"
        assert (ours(**one) == 1) is False
    for made in (ours, theirs):
        with pytest.raises(TypeError):
            hash(made(1, items=[]))


def test_own_methods_stay() -> None:
    theirs, ours = both(checked)
    assert repr(ours(1, 2)) == repr(theirs(1, 2)) == "<1 to 2>"
    assert ours(1, 2) == ours(1, 3)
    assert outcome(lambda: hash(ours(1, 2)) == hash(ours(1, 2))) == outcome(lambda: hash(theirs(1, 2)) == hash(theirs(1, 2))) == "True"
    assert ours(1, 2).width == 1


def test_nothing_can_change() -> None:
    for cls in both(plain):
        made = cls(1)
        with pytest.raises(dataclasses.FrozenInstanceError, match="'number'"):
            made.number = 2
        with pytest.raises(dataclasses.FrozenInstanceError, match="'number'"):
            del made.number
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
            made.other = 2
        assert made.number == 1


def test_each_has_its_own_list() -> None:
    _, ours = both(plain)
    ours(1).items.append(1)
    assert ours(1).items == []


def test_the_tools_of_the_standard_library_work() -> None:
    options = LoadOptions(ctx_size=7, stop=["x"])
    assert dataclasses.is_dataclass(options)
    assert dataclasses.replace(options, ctx_size=8).stop == ["x"]
    assert dataclasses.replace(options, ctx_size=8) != options
    assert LoadOptions(**dataclasses.asdict(options)) == options
    for copied in (copy.copy(options), copy.deepcopy(options), pickle.loads(pickle.dumps(options))):
        assert copied == options
        assert copied is not options
    assert copy.deepcopy(options).stop is not options.stop
    match Submit(7, Generate(prompt="a"), None):
        case Submit(request_id, generate):
            assert (request_id, generate.prompt) == (7, "a")


def test_a_class_may_have_more_fields_than_its_base() -> None:
    @dataclass(frozen=True, slots=True)
    class Base:
        a: int = 1

    @dataclass(frozen=True, slots=True)
    class More(Base):
        b: int = 2

    assert repr(More(3)) == f"{More.__qualname__}(a=3, b=2)"
    assert More(3) == More(3)
    assert More(1) != Base(1)


@pytest.mark.parametrize("cls", [Config, Generate, Header, LoadOptions])
def test_the_large_classes_have_one_method_of_their_own(cls: type[Any]) -> None:
    """Otherwise the start takes longer, and nothing else shows it."""
    assert cls.__eq__ is LoadOptions.__eq__
    assert cls.__init__ is not LoadOptions.__init__ or cls is LoadOptions


def test_other_kinds_come_from_the_standard_library() -> None:
    @dataclass(slots=True)
    class Changing:
        a: int = 1

    made = Changing()
    made.a = 2
    assert made == Changing(2)
    with pytest.raises(TypeError):
        hash(made)
