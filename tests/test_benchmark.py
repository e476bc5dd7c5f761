"""The benchmark measures what it says; its values themselves are no test."""

import json
import sys

import pytest

from config import BaselineError
from tools import benchmark
from tools.benchmark import median_seconds, run


def test_memory_is_that_of_the_command():
    seconds, memory = run([sys.executable, "-S", "-c", "import time; x = bytearray(50_000_000); time.sleep(0.2)"])
    assert 0.2 < seconds < 5
    assert 50 < memory < 90  # this process has more


def test_a_failed_command_is_an_error():
    with pytest.raises(BaselineError, match=r"(?s)raise SystemExit.* failed:.*why"):
        run([sys.executable, "-c", "raise SystemExit('why')"])


def test_actions_take_turns(monkeypatch):
    calls, clock = [], iter([0, 9, 0, 9, 0, 1, 1, 3, 3, 5, 5, 9])
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))
    actions = {name: lambda number, name=name: calls.append((name, number)) for name in "ab"}
    assert median_seconds(2, warm_up=1, **actions) == {"a": 1.5, "b": 3}  # the first round does not count
    assert calls == [(name, number) for number in range(3) for name in "ab"]


def test_table_and_json(tmp_path, monkeypatch, capsys):
    """All rows, on a few clips."""
    monkeypatch.setattr(benchmark, "cores", lambda: 1)
    size = {"train_clips": 7, "test_clips": 4, "steps": 2, "epochs": 2, "rounds": 1, "growth": [12]}
    benchmark.measure(size, tmp_path / "benchmark.json")
    record = json.loads((tmp_path / "benchmark.json").read_text())
    values = {row["what"]: row["value"] for row in record["figures"]}
    assert min(values.values()) > 0
    ratio = values["training step, one thread"] / values["its matrix products alone"]
    assert values["training step / its matrix products"] == pytest.approx(ratio)
    assert record["size"] == size
    assert list(values)[-2:] == ["training of one epoch, 12 clips, features computed", "its peak memory, 12 clips"]
    output = capsys.readouterr().out
    for what in values:
        assert f"\n{what} " in output
