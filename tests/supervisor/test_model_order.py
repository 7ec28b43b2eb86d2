"""Which model is foreseen after which requests."""

import random

import pytest

from fastrouter.supervisor.decide.model_order import MAX_CLIENTS, ModelOrder


def after(requests: str, client: str = "") -> list[str]:
    order = ModelOrder()
    for model in requests:
        order.note(client, model)
    return order.foreseen()


@pytest.mark.parametrize(
    ("requests", "foreseen"),
    [
        ("", []),
        ("ab", []),
        ("aba", []),  # seen once
        ("ababa", ["b"]),
        ("aaabbbaaabbba", ["b"]),  # several requests in a row are one turn
        ("abcabcabc", ["a"]),
        ("abcabca", ["b"]),
        ("abacabacaba", ["c"]),  # what follows `a` depends on the model before it
        ("abacabacabac", ["a"]),
        ("abcbac", []),  # no order
    ],
)
def test_the_next_model(requests: str, foreseen: list[str]) -> None:
    assert after(requests) == foreseen


def test_clients_have_orders_of_their_own() -> None:
    order = ModelOrder()
    for first, second in zip("ababababa", "cdcdcdcdc", strict=True):
        order.note("one", first)
        order.note("two", second)
    assert order.foreseen() == ["d", "b"]  # the client that asked last comes first


def test_a_turn_tells_what_was_foreseen() -> None:
    order = ModelOrder()
    turns = [order.note("", model) for model in "ababab"]
    assert [turn and turn.foreseen for turn in turns] == [None, None, None, None, None, "b"]
    assert order.note("", "b") is None


def test_a_changed_order_is_learned() -> None:
    assert after("ab" * 50 + "acac" * 10 + "a") == ["c"]


def test_it_does_not_grow() -> None:
    chance, order = random.Random(1), ModelOrder()
    for _ in range(20_000):
        order.note(f"client {chance.randrange(1000)}", f"model {chance.randrange(100)}")
    assert len(order._clients) == MAX_CLIENTS
    for _ in range(20_000):
        order.note("one", f"model {chance.randrange(1000)}")
    assert len(order._clients["one"]._followers) <= 512
