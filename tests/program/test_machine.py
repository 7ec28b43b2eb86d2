"""What the machine reports about itself."""

import os

import pytest

from fastrouter.system import machine


@pytest.mark.parametrize(("num_cores", "is_free"), [(0, False), (1 << 20, True)])
def test_a_core_is_free_when_fewer_threads_want_to_run(monkeypatch: pytest.MonkeyPatch, num_cores: int, is_free: bool) -> None:
    """This thread runs, so there is at least one; and never a million."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(num_cores))
    assert machine.is_core_free() is is_free
