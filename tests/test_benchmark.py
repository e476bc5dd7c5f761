"""The benchmark measures what it says; its values themselves are no test."""

import json
import sys

import pytest

from config import BaselineError
from datasets.catalog import find_machine
from datasets.clips import find_clips
from tools import benchmark
from tools.benchmark import Bench, in_turn, run


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
    assert in_turn(2, warm_up=1, **actions) == {"a": 1.5, "b": 3}  # the first round does not count
    assert calls == [(name, number) for number in range(3) for name in "ab"]


def test_table_and_json(tmp_path, monkeypatch, capsys):
    """All rows, on a few clips: 7 training clips, repeated to 12."""
    links = []
    link_clips = Bench.link_clips

    def link(bench, n):
        data = link_clips(bench, n)
        clips = find_clips(find_machine("DCASE2024T2fan", "dev"), bench.directory / data, "train", ("00",))
        links.append((len(clips), len({clip.path.resolve() for clip in clips})))
        return data

    monkeypatch.setattr(Bench, "link_clips", link)
    monkeypatch.setattr(Bench, "measure_test", lambda bench: None)  # it runs train.py, as measure_growth does
    monkeypatch.setattr(benchmark, "cores", lambda: 1)
    size = {"train_clips": 7, "test_clips": 4, "steps": 2, "epochs": 2, "growth": [12]}
    benchmark.measure(size, tmp_path / "benchmark.json")
    assert links == [(12, 7)]
    record = json.loads((tmp_path / "benchmark.json").read_text())
    values = {row["what"]: row["value"] for row in record["figures"]}
    assert min(values.values()) > 0
    ratio = values["training step, one thread"] / values["its matrix products alone"]
    assert values["training step / its matrix products"] == pytest.approx(ratio)
    assert record["size"] == size
    assert list(record["growth"][0]) == ["training clips", "one epoch in all (s)", "peak memory (MB)"]
    output = capsys.readouterr().out
    for what in values:
        assert f"\n{what} " in output
