"""Choose the results that may be compared in one table: their trainings, tests and clips must match.

The seeds of a system must have the same parameters of training and test, the same code and the same clips; so must its
machine types, except for the clips. The scores of a tag must have the same training. Results that differ from the
majority are left out; in a tie, the older ones. Results of a model that has been replaced are left out, too.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from config import ONLY_TEST_KEYS, TRAINING_KEYS, BaselineError, Config
from fingerprints import sha256_of
from tools.results.runs import Run, system_of
from tools.results.test_records import read_test_record
from tools.training.identity import describe_changes
from tools.training.paths import RunPaths

Place = tuple[Config, str, str]  # the configuration of a run, machine type, section
SHARED_BY_SEEDS = [key for key in TRAINING_KEYS if key != "seed"]


@dataclass(frozen=True)
class Tested:
    """One section of a run, and the record of its test."""

    run: Run
    machine: str
    section: str
    record: dict[str, Any]

    @property
    def place(self) -> "Place":
        return self.run.config, self.machine, self.section

    def shared(self, part: str) -> dict[str, Any]:
        """The values that must be equal within a group, see GROUPS."""
        training = self.record["training"]
        return {
            "training": {key: training.get(key) for key in SHARED_BY_SEEDS} | training.get("code", {}),
            "test": {key: self.record.get(key) for key in ONLY_TEST_KEYS} | self.record["code"],
            "pAUC": {"max_fpr": self.record["max_fpr"]},
            "training clips": {"clips": training.get("clips")},
            "test clips": {name: row for name, row in self.record["clips"].items() if row[0] == self.section},
        }[part]


# What must be equal → key of the group of results within which it must be equal.
GROUPS: dict[str, Callable[[Tested], Any]] = {
    "training": lambda tested: tested.run.config.model_name_suffix,
    "test": lambda tested: tested.run.system,
    "pAUC": lambda tested: None,
    "training clips": lambda tested: (tested.run.config.model_name_suffix, *tested.place[1:]),
    "test clips": lambda tested: (tested.run.system, *tested.place[1:]),
}


def keep_comparable(runs: Sequence[Run], wanted: Mapping[str, Any] | None = None) -> tuple[list[Run], list[str]]:
    """The runs without the results that do not match the others, and one line for each reason.

    Args:
        wanted: required parameters of training or test. Results with other values are left out silently.
    """
    reasons: dict[Place, str] = {}  # run, machine type, section → reason to leave it out
    remarks: dict[Place, str] = {}  # on results that are kept
    tests = []
    for run, machine, section, metrics in _sections(runs):
        place, paths = (run.config, machine, section), run.paths(run.machines[machine])
        try:
            record = read_test_record(paths, section)
        except BaselineError as error:
            reasons[place] = str(error)
            continue
        if record is None:
            remarks[place] = "its model and parameters are unknown, because there is no record of the test"
            continue
        tested = Tested(run, machine, section, record)
        if not _belongs_to_run(record, run.config):
            reasons[place] = "copied from elsewhere: its record has another --seed or --score"
        elif any({**record["training"], **record}.get(key) != value for key, value in (wanted or {}).items()):
            reasons[place] = ""
        elif not _has_its_metrics(tested, metrics):
            reasons[place] = f"{paths.metrics} has changed since the test. Test again"
        elif _is_outdated(tested, paths):
            reasons[place] = "tested with an older model, which has been replaced. Test again"
        else:
            tests.append(tested)
    reasons |= find_mismatches(tests)
    remarks |= _remarks([tested for tested in tests if tested.place not in reasons])
    kept = []
    for run in runs:
        left_out = frozenset((machine, section) for config, machine, section in reasons if config == run.config)
        kept.append(replace(run, left_out=left_out))
    return kept, [*_lines(reasons, " left out"), *_lines(remarks, "")]


def find_mismatches(tests: Sequence[Tested]) -> dict[Place, str]:
    """Run, machine type and section of results that do not match the others → the difference."""
    mismatches: dict[Place, str] = {}
    left = sorted(tests, key=lambda tested: -tested.record.get("written", math.inf))
    for part, group_of in GROUPS.items():
        groups: dict[Any, list[Tested]] = {}
        for tested in left:
            groups.setdefault(group_of(tested), []).append(tested)
        for group in groups.values():
            texts = [json.dumps(tested.shared(part), sort_keys=True) for tested in group]
            usual = Counter(texts).most_common(1)[0][0]
            for tested, text in zip(group, texts, strict=True):
                if text != usual:
                    difference = _difference(json.loads(text), json.loads(usual), part)
                    mismatches[tested.place] = difference
        left = [tested for tested in left if tested.place not in mismatches]
    return mismatches


def _remarks(tests: Sequence[Tested]) -> dict[Place, str]:
    """What a reader must know about results that are kept."""
    remarks: dict[Place, str] = {}
    first_of_model: dict[tuple, Run] = {}
    first_of_place: dict[tuple, Tested] = {}
    for tested in tests:
        record, code = tested.record, tested.record["training"].get("code", {})
        other_code = [name for name, text in record["code"].items() if name in code and code[name] != text]
        model = first_of_model.setdefault((record["score"], record["model_sha256"], *tested.place[1:]), tested.run)
        clips = first_of_place.setdefault(tested.place[1:], tested)
        if other_code:
            remarks[tested.place] = f"between training and test, {describe_changes(other_code)}"
        elif model is not tested.run:
            remarks[tested.place] = f"the same model as {model.system}, seed {model.config.seed}"
        elif tested.shared("test clips") != clips.shared("test clips"):
            remarks[tested.place] = f"tested on different clips than {clips.run.system}"
    return remarks


def _sections(runs: Sequence[Run]) -> Iterator[tuple[Run, str, str, Mapping[tuple[str, str, str], float]]]:
    """Run, machine type and section of all results, with the run's metrics."""
    for run in runs:
        metrics = run.metrics()["value"].to_dict()
        with_metrics = {key[:2] for key in metrics}
        for machine in run.machines.values():
            for section in machine.sections:
                has_scores = run.paths(machine).anomaly_scores(section).exists()
                if has_scores or (machine.name, section) in with_metrics:
                    yield run, machine.name, section, metrics


def _belongs_to_run(record: Mapping[str, Any], config: Config) -> bool:
    return record.get("score") == config.score and record["training"].get("seed", config.seed) == config.seed


def _has_its_metrics(tested: Tested, metrics: Mapping[tuple[str, str, str], float]) -> bool:
    """Whether the run's metrics of a section, if it has any, are those of the test."""
    expected = tested.record["metrics"].get(tested.section, {})
    keys = {name: (tested.machine, tested.section, name) for name in expected}
    return all(repr(metrics.get(keys[name], value)) == repr(value) for name, value in expected.items())  # nan is nan


def _is_outdated(tested: Tested, paths: RunPaths) -> bool:
    model = paths.model_dir.with_name(tested.record["model"]) / paths.model.name
    return model.exists() and sha256_of(model) != tested.record["model_sha256"]


def _difference(found: Mapping[str, Any], usual: Mapping[str, Any], part: str) -> str:
    if part.endswith("clips"):
        return f"{part} differ from the others"
    names = sorted(key for key in {**found, **usual} if found.get(key) != usual.get(key))
    code = [name for name in names if ".py" in name]
    texts = [f"--{key} {found.get(key)}, not {usual.get(key)}" for key in names if key not in code]
    return "; ".join([*texts, *([describe_changes(code)] if code else [])])


def _lines(reasons: Mapping[Place, str], what: str) -> list[str]:
    """One line per run and reason."""
    places: dict[tuple[Config, str], list[str]] = {}
    for (config, machine, section), reason in reasons.items():
        if reason:
            places.setdefault((config, reason), []).append(f"{machine} {section}")
    return [
        f"{system_of(config)}, seed {config.seed}: {', '.join(names)}{what}: {reason}."
        for (config, reason), names in places.items()
    ]
