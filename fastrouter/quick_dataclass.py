"""`dataclass`, as in the standard library, for the frozen classes with slots that this program is full of. The standard library writes and
compiles six methods for each; here it is one, and the others are shared. All classes together took a quarter of each process's start.

Invariant: except for the text of tracebacks, such a class is the same as one of the standard library.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass as dataclass  # this is what type checkers see, see the last line
from operator import attrgetter
from typing import Any, NoReturn

_UNSET = object()


def _repr(self: Any) -> str:
    shown = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self) if field.repr)
    return f"{type(self).__qualname__}({shown})"


def _eq(self: Any, other: Any) -> Any:
    if self is other:
        return True
    return self._compared(self) == self._compared(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: Any) -> int:
    return hash(self._hashed(self))


def _refuse_change(self: Any, name: str, value: object) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_removal(self: Any, name: str) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)


def _key(names: list[str]) -> Callable[[Any], Any]:
    return staticmethod(attrgetter(*names) if names else lambda instance: ())


def _init(made: type[Any]) -> Any:
    """`__init__` of a class whose fields have slots: it calls the setters of the slots."""
    fields = [field for field in dataclasses.fields(made) if field.init]
    space: dict[str, Any] = {"_unset": _UNSET}
    positional: list[str] = []
    named: list[str] = []
    body: list[str] = []
    for field in dataclasses.fields(made):
        name, value = field.name, field.name
        space[f"_set_{name}"] = getattr(made, name).__set__
        if field.default is not dataclasses.MISSING:
            space[f"_default_{name}"] = field.default
        if field.default_factory is not dataclasses.MISSING:
            space[f"_make_{name}"] = field.default_factory
            value = f"_make_{name}() if {name} is _unset else {name}" if field.init else f"_make_{name}()"
        elif not field.init:
            value = f"_default_{name}"
        body.append(f" _set_{name}(self, {value})")
    for field in fields:
        has_factory = field.default_factory is not dataclasses.MISSING
        default = "=_unset" if has_factory else f"=_default_{field.name}" if f"_default_{field.name}" in space else ""
        (named if field.kw_only else positional).append(field.name + default)
    if hasattr(made, "__post_init__"):
        body.append(" self.__post_init__()")
    head = ", ".join(["self", *positional, *(["*", *named] if named else [])])
    exec(f"def __init__({head}):\n" + ("\n".join(body) or " pass"), space)  # of names in our own source only
    return space["__init__"]


def _frozen(cls: type[Any], *, kw_only: bool) -> type[Any]:
    cls.__doc__ = cls.__doc__ or cls.__name__  # otherwise the standard library makes one, which takes long
    made = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True, kw_only=kw_only)(cls)
    compared = [field.name for field in dataclasses.fields(made) if field.compare]
    hashed = [field.name for field in dataclasses.fields(made) if (field.compare if field.hash is None else field.hash)]
    own = vars(made)
    for name, method in (
        ("__init__", _init(made)),
        ("__repr__", _repr),
        ("__eq__", _eq),
        ("__hash__", _hash),
        ("_compared", _key(compared)),
        ("_hashed", _key(hashed)),
        ("__setattr__", _refuse_change),
        ("__delattr__", _refuse_removal),
        ("__getstate__", _state),
        ("__setstate__", _set_state),
    ):
        if own.get(name) is None:  # a class that has its own __eq__ gets None as its __hash__
            setattr(made, name, method)
    return made


def _dataclass(*, frozen: bool = False, slots: bool = False, kw_only: bool = False, **more: Any) -> Callable[[type[Any]], type[Any]]:
    if frozen and slots and not more:
        return lambda cls: _frozen(cls, kw_only=kw_only)
    return dataclasses.dataclass(frozen=frozen, slots=slots, kw_only=kw_only, **more)


globals()["dataclass"] = _dataclass
