"""One answer's pieces, counts and records; where a thought begins and ends; which control tokens are shown. No model."""

from itertools import pairwise
from typing import Any

import pytest
from fake_vocab import FakeVocab
from hypothesis import given
from hypothesis import strategies as st

from fastrouter.ipc.records import CallDelta
from fastrouter.worker.sampling.thought import MarkerWatch, Place, ThoughtWatch
from fastrouter.worker.text.detokenizer import Detokenizer, PieceTable
from fastrouter.worker.text.marker_pieces import is_always_parsed, texts_of
from fastrouter.worker.text.message import Message, deltas_of
from fastrouter.worker.text.parsers.format import Channels
from fastrouter.worker.text.parsers.parser import MessageParser
from fastrouter.worker.text.parsers.pieces import Kind, Piece
from fastrouter.worker.text.parsers.table import GENERIC, known_format
from fastrouter.worker.text.prompts import shown_tools

TEXT = '<think>\nwell, é\n</think>\n\nyes <b>\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'


def message(*, is_parallel: bool = True, **options: Any) -> Message:
    return Message(MessageParser(known_format("hermes"), **options), is_thinking=False, is_parallel=is_parallel)


def pieces_of(message: Message, texts: list[str]) -> list[Piece]:
    """The pieces of the message, taken in the same way as in the engine."""
    found: list[Piece] = []
    num_quiet = 0
    for number, text in enumerate(texts, 1):
        if message.quiet is not None and message.quiet[text.encode()]:
            found.append(Piece(message.kind, text))
            num_quiet = number
        else:
            found += message.take(text.encode(), number, num_quiet)
    return found + message.finish(len(texts), num_quiet, is_cut=False)


def joined(pieces: list[Piece]) -> dict[tuple[Kind, int], str]:
    found: dict[tuple[Kind, int], str] = {}
    for piece in pieces:
        found[piece.kind, piece.index] = found.get((piece.kind, piece.index), "") + piece.text
    return found


@given(st.lists(st.integers(0, len(TEXT)), max_size=len(TEXT)))
def test_the_cuts_of_the_text_change_nothing(cuts: list[int]) -> None:
    ends = sorted({0, len(TEXT), *cuts})
    one = message()
    found = joined(pieces_of(one, [TEXT[start:end] for start, end in pairwise(ends)]))
    assert found == {
        (Kind.REASONING, 0): "well, é",
        (Kind.TEXT, 0): "yes <b>",
        (Kind.CALL, 0): "f",
        (Kind.ARGUMENTS, 0): '{"a": 1}',
    }
    assert one.num_calls == 1
    assert one.num_reasoning_tokens < len(ends)


def test_tokens_of_thoughts_are_counted() -> None:
    one = Message(MessageParser(known_format("hermes"), reasoning_open=True), is_thinking=True, is_parallel=True)
    pieces_of(one, ["so", " it", " is", "\n</think>", "\n\n", "yes", " it", " is"])
    assert one.num_reasoning_tokens == 5
    only_thought = Message(MessageParser(known_format("hermes"), reasoning_open=True), is_thinking=True, is_parallel=True)
    pieces_of(only_thought, ["so", " it", " goes", "\n"])
    assert only_thought.num_reasoning_tokens == 4
    none = message()
    pieces_of(none, ["yes", " it", " is"])
    assert none.num_reasoning_tokens == 0


def test_a_second_call_ends_the_message_where_there_may_be_only_one() -> None:
    two = TEXT + '\n<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
    one = message(is_parallel=False)
    found = joined(pieces_of(one, list(two)))
    assert [key for key in found if key[0] is Kind.CALL] == [(Kind.CALL, 0)]
    assert (one.num_calls, one.is_over) == (1, True)
    both = message()
    pieces_of(both, list(two))
    assert (both.num_calls, both.is_over) == (2, False)


def test_deltas_keep_the_order_and_a_call_has_one_piece_in_each() -> None:
    pieces = [
        Piece(Kind.REASONING, "a"),
        Piece(Kind.TEXT, "b"),
        Piece(Kind.CALL, "f", 0),
        Piece(Kind.ARGUMENTS, "{", 0),
        Piece(Kind.ARGUMENTS, "}", 0),
        Piece(Kind.CALL, "g", 1),
        Piece(Kind.TEXT, "c"),
        Piece(Kind.REASONING, "d"),
    ]
    deltas = deltas_of(pieces, str)
    shown = [(delta.reasoning, delta.text, [(call.index, call.name, call.arguments) for call in delta.calls]) for delta in deltas]
    assert shown == [
        ("a", "b", [(0, "f", "")]),
        ("", "", [(0, "", "{")]),
        ("", "", [(0, "", "}"), (1, "g", "")]),
        ("", "c", []),
        ("d", "", []),
    ]
    assert isinstance(deltas[0].calls[0], CallDelta)
    assert len({call.id for delta in deltas for call in delta.calls if call.name}) == 2
    assert deltas_of([], str) == []


# ---------------------------------------------------------------- thoughts, token by token


def places(texts: list[str], *, is_open: bool = False) -> list[Place]:
    watch = ThoughtWatch(("<think>\n",), ("\n</think>\n\n",), is_open=is_open)
    found = []
    for text in texts:
        watch.push(text.encode())
        found.append(watch.place)
    return found


START, THOUGHT, ANSWER = Place.START, Place.THOUGHT, Place.ANSWER


@pytest.mark.parametrize(
    ("texts", "is_open", "expected"),
    [
        (["<think>", "a", "</think>", "\n\n", "b"], False, [THOUGHT, THOUGHT, START, START, ANSWER]),
        (["\n", "<th", "ink", ">a", "</thi", "nk>b"], False, [START, START, START, THOUGHT, THOUGHT, START]),
        (["yes", "<think>"], False, [ANSWER, ANSWER]),
        (["<b>", "<think>"], False, [ANSWER, ANSWER]),
        (["a<think>", "</think>"], True, [THOUGHT, START]),
        (["</think>", "<think>", "</think>"], True, [START, THOUGHT, START]),
    ],
)
def test_where_a_thought_is(texts: list[str], is_open: bool, expected: list[Place]) -> None:
    assert places(texts, is_open=is_open) == expected


def test_what_stands_behind_the_end_in_one_token() -> None:
    watch = ThoughtWatch(("<think>",), ("</think>",), is_open=True)
    assert not watch.push(b"a</thi")
    assert watch.push(b"nk>\n\n")
    assert watch.rest == b"\n\n"


@given(
    st.lists(st.sampled_from(["<", "tool", ">", "<tool>", "<|c", "|>", "[", "X]", "a ", "<t"]), max_size=12),
    st.sets(st.sampled_from(["<tool>", "<|c|>", "[X]"])),
    st.lists(st.integers(0, 40), max_size=5),
)
def test_a_marker_is_found_wherever_the_text_is_cut(words: list[str], markers: set[str], cuts: list[int]) -> None:
    text = "".join(words).encode()
    watch, ends_of_pieces = MarkerWatch(sorted(markers)), sorted(min(cut, len(text)) for cut in cuts)
    ends = [text.find(marker.encode()) + len(marker) for marker in markers if marker.encode() in text]
    for begin, end in zip([0, *ends_of_pieces], [*ends_of_pieces, len(text)], strict=True):
        rest = watch.push(text[begin:end])
        if rest is not None:
            assert end - len(rest) in ends
            assert begin < min(ends) <= end
            return
    assert not ends


# ---------------------------------------------------------------- formats and what is shown of tokens


def test_some_formats_have_markers_around_every_answer() -> None:
    assert not is_always_parsed(GENERIC)
    assert is_always_parsed(known_format("gpt-oss"))


def test_all_texts_of_a_format_are_found() -> None:
    texts = set(texts_of(known_format("gpt-oss")))
    assert {Channels().message, *Channels().ends} <= texts


def test_some_control_tokens_are_shown() -> None:
    vocab = FakeVocab([b"<call>", b"<other>", b"a"], control=frozenset({0, 1}))
    detokenizer = Detokenizer(PieceTable(vocab, shown=frozenset({0})), [])
    assert b"".join(detokenizer.push(token) for token in (0, 1, 2)) == b"<call>a"


def test_an_ended_text_has_no_rest() -> None:
    detokenizer = Detokenizer(PieceTable(FakeVocab([b"ab"])), ["bc"])
    assert detokenizer.push(0) == b"a"
    detokenizer.end()
    assert (detokenizer.finish(), detokenizer.stop_type, detokenizer.is_stopped) == (b"", "eos", True)


@pytest.mark.parametrize(
    "function", [{}, {"parameters": None}, {"parameters": {}}, {"parameters": []}, {"description": None, "strict": True}], ids=str
)
def test_templates_get_what_they_read_of_a_tool(function: dict[str, Any]) -> None:
    expected = {"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}}
    assert shown_tools([{"function": {"name": "f", **function}}], "auto") == [{"type": "function", "function": expected}]
