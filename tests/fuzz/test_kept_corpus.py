"""Every kept input of every target, and small changes of each; `make fuzz` looks for new ones, guided by coverage."""

import importlib
import random
from pathlib import Path

import pytest
from campaign import NAMES

CORPUS = Path(__file__).parent / "corpus"
MAX_CORPUS_BYTES = 300_000
NUM_CHANGES = 12  # of each input
NUMBERS = (b"\0", b"\x7f", b"\x80", b"\xff", b"\xff" * 4, b"\0" * 8, b"\xff" * 8, b"\x80" + b"\0" * 7)


def changed(data: bytes, source: random.Random) -> bytes:
    """With a byte flipped, a piece repeated, moved or dropped, or a number written over it."""
    result = bytearray(data)
    at, end = sorted((source.randrange(len(result) + 1), source.randrange(len(result) + 1)))
    kind = source.randrange(5)
    if kind == 0 and at < len(result):
        result[at] ^= 1 << source.randrange(8)
    elif kind == 1:
        result[at:at] = result[at : min(end, at + 64)]
    elif kind == 2:
        del result[at : min(end, at + 16)]
    elif kind == 3:
        del result[at:]
    else:
        number = source.choice(NUMBERS)
        result[at : at + len(number)] = number
    return bytes(result)


@pytest.mark.parametrize("name", NAMES)
def test_kept_inputs_and_their_changes(name: str) -> None:
    target = importlib.import_module(f"fuzz_{name}")
    paths = sorted((CORPUS / name).iterdir())
    assert len(paths) >= 5
    for path in paths:
        data = path.read_bytes()
        source = random.Random(data)
        inputs = [data]
        for _ in range(NUM_CHANGES):
            inputs.append(changed(inputs[-1] if source.randrange(2) else data, source))
        for each in inputs:
            try:
                target.check(each)
            except Exception as error:
                raise AssertionError(f"{path.name}, or this change of it: {each!r}") from error


def test_the_corpus_stays_small() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} == set(NAMES)
    assert sum(path.stat().st_size for path in files) < MAX_CORPUS_BYTES
