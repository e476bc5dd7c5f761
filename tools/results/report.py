"""A summary → one HTML page that needs neither network nor server: tables, pictures, parameters, and ranked clips.

Pictures are part of the page. Clips are not: they are played where the data are, by paths relative to the page.
"""

import base64
import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from config import BaselineError, Config, load_config
from datasets.catalog import Machine
from datasets.clips import Clip
from files import write_text
from tools.results.metrics import OFFICIAL
from tools.results.runs import Run
from tools.results.score_files import SectionScores
from tools.results.summary import Summary
from tools.results.tables import Table, interval_table, main_table, official_table, percent, published_table
from tools.training.model_files import read_record
from tools.training.paths import RunPaths

TEMPLATE = Path(__file__).with_name("report.html")
# Of a model's record: what tells one run from another by its place, or is no parameter of the method.
NOT_SHOWN = (
    *("dataset", "dev", "eval", "train_only", "test_only", "restart", "or_anew", "checkpoint_path", "use_ids"),
    *("score", "max_fpr", "decision_threshold", "calibration"),  # of tests, which may have others
)
# What tools/plot_reconstruction.py must be told, where it is not as in baseline.yaml.
DRAWN_BY = (
    *("score", "seed", "model_name_suffix"),
    *("dataset_directory", "model_directory", "result_directory", "export_dir"),
)

log = logging.getLogger("baseline")


@dataclass(frozen=True)
class Picture:
    """A PNG within the page."""

    caption: str
    data: str  # base64


@dataclass(frozen=True)
class RankedClip:
    """A line of the list of clips: for each system its rank (1: the highest score of its section), score, decisions."""

    clip: Clip
    address: str  # relative to the page; empty where the clip is not there
    of_systems: list[tuple[int, float, str]]

    @property
    def domain(self) -> str:
        if self.clip.is_target:
            return "target"
        return "" if self.clip.is_anomaly is None else "source"  # its name does not say

    @property
    def label(self) -> str:
        return {None: "", False: "normal", True: "anomaly"}[self.clip.is_anomaly]


def write_report(summary: Summary, path: Path) -> None:
    """Write the page.

    Raises:
        BaselineError: the page cannot be written.
    """
    import jinja2

    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    tables = [main_table(summary), official_table(summary), published_table(summary), interval_table(summary)]
    page = template.render(
        title=summary.title,
        tables=[table for table in tables if table],
        picture=next(_pictures([("Means and machine types", path.with_name("summary.png"))]), None),
        parameters=parameter_table(summary),
        machines=[_machine_page(summary, machine, path.parent) for machine in _machines(summary)],
    )
    write_text(path, page)


def _machines(summary: Summary) -> list[Machine]:
    """The machine types that have results."""
    machines = summary.dataset.tested(summary.config.split).values()
    return [m for m in machines if any(run.paths(m).metrics.exists() for run in summary.runs)]


def _machine_page(summary: Summary, machine: Machine, directory: Path) -> dict[str, Any]:
    pictures, reconstructions = [], []
    for system, (run, *others) in summary.systems.items():
        name = f"{system}, seed {run.config.seed}" if others else system
        paths = run.paths(machine)
        pictures += [(f"Anomaly scores, {name}", paths.score_plot), (f"ROC curves, {name}", paths.roc_plot)]
        reconstructions += [(f"{name}: {path.stem}", path) for path in _reconstructions(paths, machine)]
    models = {p.model_dir: p for runs in summary.systems.values() for p in runs[0].models(machine)}
    losses = [(f"Losses, {paths.model_name}, seed {paths.config.seed}", paths.loss_plot) for paths in models.values()]
    scores = {system: [_sections(run, machine) for run in runs] for system, runs in summary.systems.items()}
    return {
        "name": machine.name,
        "metrics": _metrics_table(summary, machine),
        "pictures": list(_pictures([*pictures, *losses])),
        "reconstructions": list(_pictures(reconstructions)),
        "how_to_draw": _how_to_draw(summary, machine),
        "systems": list(summary.systems),
        "has_seeds": any(len(runs) > 1 for runs in summary.systems.values()),
        "sections": {section: _ranked(scores, section, directory) for section in machine.sections},
    }


def _how_to_draw(summary: Summary, machine: Machine) -> str:
    """The command that draws the first system's best and worst clips."""
    first, defaults = summary.runs[0].config.as_dict(DRAWN_BY), _defaults().as_dict(DRAWN_BY)
    options = [f"--{key} {shlex.quote(str(value))}" for key, value in first.items() if value != defaults[key]]
    command = f".venv/bin/python tools/plot_reconstruction.py --dataset {machine.dataset.name}{machine.name}"
    return " ".join([command, f"-{machine.split[0]} --ranked 2", *options])


def _defaults() -> Config:
    return load_config(["--dataset", "any", "-d"])


def _reconstructions(paths: RunPaths, machine: Machine) -> list[Path]:
    """The pictures that were drawn after the last test: older ones may be of another model."""
    tests = [paths.anomaly_scores(section) for section in machine.sections]
    tested = max((path.stat().st_mtime for path in tests if path.exists()), default=0.0)
    pictures = sorted(paths.reconstruction_dir.glob("*.png"))
    current = [path for path in pictures if path.stat().st_mtime >= tested]
    if current != pictures:
        older = len(pictures) - len(current)
        log.warning("%s: %d pictures are older than the scores, and left out.", paths.reconstruction_dir, older)
    return current


def _sections(run: Run, machine: Machine) -> dict[str, SectionScores]:
    try:
        return run.sections(machine)
    except BaselineError as error:
        log.warning("%s, %s: no list of clips: %s", run.system, machine.name, error)
        return {}


def _metrics_table(summary: Summary, machine: Machine) -> Table:
    rows = [
        [system, *(percent(*summary.statistics[system, row][machine.name]) for row in _rows(summary))]
        for system in summary.systems
    ]
    mean = " of its sections" if len(machine.sections) > 1 else ""
    return Table(f"{machine.name}: percent{mean}", ["system", *_rows(summary)], rows, 1)


def _rows(summary: Summary) -> list[str]:
    return [*summary.dataset.official_score["metrics"], OFFICIAL]


def _ranked(scores: dict[str, list[dict[str, SectionScores]]], section: str, directory: Path) -> list[RankedClip]:
    """The clips of a section, the most anomalous of the first system first; scores are means over a system's seeds.

    Args:
        scores: system → for each seed, section → its clips and their scores.
    """
    clips: dict[str, Clip] = {}
    columns = []
    for of_seeds in scores.values():
        scored = [sections[section] for sections in of_seeds if section in sections]
        clips |= {clip.name: clip for result in scored for clip in result.clips}
        columns.append(_column(scored))
    none = 0, float("nan"), ""
    lines = [
        RankedClip(clip, _address(clip.path, directory), [column.get(name, none) for column in columns])
        for name, clip in clips.items()
    ]
    return sorted(lines, key=lambda line: [rank or len(clips) + 1 for rank, _, _ in line.of_systems])


def _column(scored: Sequence[SectionScores]) -> dict[str, tuple[int, float, str]]:
    """Name of a clip → rank, score and decisions of one system."""
    scores: dict[str, list[float]] = {}
    decisions: dict[str, list[int]] = {}
    for result in scored:
        for clip, score, decision in zip(
            result.clips, result.scores, result.decisions or [None] * len(result.clips), strict=True
        ):
            scores.setdefault(clip.name, []).append(score)
            decisions.setdefault(clip.name, []).extend([] if decision is None else [decision])
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    ordered = sorted(means, key=means.get, reverse=True)
    return {name: (rank, means[name], _decided(decisions[name])) for rank, name in enumerate(ordered, start=1)}


def _decided(decisions: list[int]) -> str:
    """`anomaly` or `normal`; of several seeds how many decided for an anomaly."""
    if len(set(decisions)) == 1:
        return "anomaly" if decisions[0] else "normal"
    return f"anomaly {sum(decisions)} of {len(decisions)}" if decisions else ""


def _address(clip: Path, directory: Path) -> str:
    return quote(Path(os.path.relpath(clip, directory)).as_posix()) if clip.exists() else ""


def _pictures(pictures: Sequence[tuple[str, Path]]) -> Iterator[Picture]:
    for caption, path in pictures:
        if path.exists():
            yield Picture(caption, base64.b64encode(path.read_bytes()).decode())


def parameter_table(summary: Summary) -> Table:
    """Parameters, device and versions of the models of each tag; where they differ among these, all values."""
    tags = list(dict.fromkeys(_tag(run.config) for run in summary.runs))
    values: dict[str, dict[str, dict[str, None]]] = {}  # parameter → tag → its values, in order
    for run in summary.runs:
        for paths in (paths for machine in _machines(summary) for paths in run.models(machine)):
            try:
                record = read_record(paths) or {}
            except BaselineError as error:
                log.warning("%s", error)
                continue
            record |= {f"version of {name}": version for name, version in record.pop("versions", {}).items()}
            for name, value in record.items():
                if name not in NOT_SHOWN and not name.endswith(("_sha256", "_directory")):
                    values.setdefault(name, {}).setdefault(_tag(run.config), {})[str(value)] = None
    rows, defaults = [], _defaults().as_dict()
    for name, of_tags in values.items():
        default = str(defaults.get(name, ""))
        rows.append([name, default, *(", ".join(of_tags.get(tag, {})) for tag in tags)])
    title = "Parameters, device and versions of the models"
    return Table(title, ["", "baseline.yaml", *(tag or "models" for tag in tags)], rows, 1)


def _tag(config: Config) -> str:
    return config.model_name_suffix
