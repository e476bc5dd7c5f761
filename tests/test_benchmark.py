"""The benchmark measures what it says; its figures themselves are no test."""

import sys

import pytest

from config import BaselineError
from datasets.catalog import find_machine
from datasets.clips import find_clips
from tools import benchmark
from tools.benchmark import Bench, Size, in_turn, run


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("bench"), Size(6, 4, steps=3, epochs=1, growth=()))


def test_memory_is_that_of_the_command():
    seconds, memory = run([sys.executable, "-S", "-c", "import time; x = bytearray(50_000_000); time.sleep(0.2)"])
    assert 0.2 < seconds < 5
    assert 50 < memory < 90  # this process has more


def test_a_failed_command_is_said():
    with pytest.raises(BaselineError, match=r"(?s)raise SystemExit.* failed:.*why"):
        run([sys.executable, "-c", "raise SystemExit('why')"])


def test_actions_take_turns(monkeypatch):
    calls, clock = [], iter(range(1000))
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))
    actions = {name: lambda number, name=name: calls.append((name, number)) for name in "ab"}
    assert in_turn(2, **actions) == {"a": 1, "b": 1}
    assert calls == [(name, number) for number in range(5) for name in "ab"]  # three rounds do not count


def test_more_clips_than_there_are(bench):
    data = bench.data(bench.link_clips(15))
    clips = find_clips(find_machine("DCASE2024T2fan", "dev"), data, "train", ("00",))
    assert len(clips) == 15
    assert len({clip.path.resolve() for clip in clips}) == 6


def test_steps_and_features_are_measured(bench):
    figures = {figure.what: figure.value for figure in benchmark.measure_step(bench)}
    step, products = figures["training step, one thread"], figures["its matrix products alone"]
    assert figures["training step / its matrix products"] == pytest.approx(step / products)
    assert step > 0
    assert benchmark.measure_per_vector_loader(bench).value > 0
    assert benchmark.measure_features(bench).value > 0
