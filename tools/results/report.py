"""The HTML report of a summary: tables, plots, parameters and ranked clips on one page.

The page needs no server and no network. It contains the plots; the clips are played from the dataset directory.
"""

import base64
import itertools
import logging
import math
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from config import BaselineError, load_config
from datasets.catalog import Machine
from files import write_text
from tools.results.official import summary_metrics
from tools.results.runs import Run
from tools.results.score_files import SectionScores
from tools.results.summary import Summary
from tools.results.tables import Table, all_tables, statistic_cells
from tools.training.paths import RunPaths

TEMPLATE = Path(__file__).with_name("report.html")
NOT_SHOWN = ("use_ids", "clips", "code")  # parts of a test record's `training`
PLOT_OPTIONS = (  # of tools/plot_reconstruction.py
    *("score", "seed", "model_name_suffix"),
    *("dataset_directory", "model_directory", "result_directory", "export_dir"),
)

log = logging.getLogger("baseline")


def write_report(summary: Summary, path: Path) -> None:
    """Write the page."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    tables = all_tables(summary)
    page = template.render(
        title=summary.title,
        tables=[table for name, table in tables.items() if name != "intervals"],
        intervals=tables.get("intervals"),
        plots=_embed([("Metrics by machine type", path.with_name("summary.png"))]),
        parameters=parameter_table(summary),
        machines=[_machine_page(summary, machine, path.parent) for machine in _machines(summary)],
    )
    write_text(path, page)


def _machines(summary: Summary) -> list[Machine]:
    """The machine types with results."""
    machines = summary.dataset.tested(summary.config.split).values()
    return [m for m in machines if any(run.paths(m).metrics.exists() for run in summary.runs)]


def _machine_page(summary: Summary, machine: Machine, directory: Path) -> dict[str, Any]:
    plots, losses, reconstructions = [], {}, []
    scores: dict[str, dict[str, list[SectionScores]]] = {section: {} for section in machine.sections}
    for system, runs in summary.systems.items():
        run = runs[0]
        paths = run.paths(machine)
        name = f"{system}, seed {run.config.seed}" if len(runs) > 1 else system
        plots += [(f"Anomaly scores, {name}", paths.score_plot), (f"ROC curves, {name}", paths.roc_plot)]
        for model in run.models(machine):  # systems may share a model
            losses[f"Losses, {model.model_name}, seed {model.config.seed}", model.loss_plot] = None
        reconstructions += [(f"{name}: {path.stem}", path) for path in _reconstructions(paths, machine)]
        seeds = [_read_sections(run, machine) for run in runs]
        for section in machine.sections:
            scores[section][system] = [sections[section] for sections in seeds if section in sections]
    return {
        "name": machine.name,
        "metrics": _metrics_table(summary, machine),
        "plots": _embed([*plots, *losses]),
        "reconstructions": _embed(reconstructions),
        "how_to_draw": _how_to_draw(summary, machine),
        "systems": list(summary.systems),
        "has_seeds": any(len(runs) > 1 for runs in summary.systems.values()),
        "sections": {section: rank_clips(systems, directory) for section, systems in scores.items()},
    }


def _how_to_draw(summary: Summary, machine: Machine) -> str:
    """The command that plots the reconstructions of the first system's best and worst clips."""
    first, defaults = summary.runs[0].config.as_dict(PLOT_OPTIONS), _defaults()
    options = [f"--{key} {shlex.quote(str(value))}" for key, value in first.items() if value != defaults[key]]
    command = f".venv/bin/python tools/plot_reconstruction.py --dataset {machine.dataset.name}{machine.name}"
    return " ".join([command, f"-{machine.split[0]} --ranked 2", *options])


def _defaults() -> dict[str, Any]:
    return load_config(["--dataset", "any", "-d"]).as_dict()


def _reconstructions(paths: RunPaths, machine: Machine) -> list[Path]:
    """The plots that are newer than the last test. Older ones may show another model."""
    tests = [paths.anomaly_scores(section) for section in machine.sections]
    tested = max((path.stat().st_mtime for path in tests if path.exists()), default=0.0)
    plots = sorted(paths.reconstruction_dir.glob("*.png"))
    current = [path for path in plots if path.stat().st_mtime >= tested]
    if older := len(plots) - len(current):
        log.warning(
            "%s: %d plots are left out because they are older than the scores.", paths.reconstruction_dir, older
        )
    return current


def _read_sections(run: Run, machine: Machine) -> dict[str, SectionScores]:
    try:
        results = [run.section(machine, section) for section in machine.sections]
    except BaselineError as error:
        log.warning("%s, %s: no list of clips: %s", run.system, machine.name, error)
        return {}
    return {result.section: result for result in results if result}


def _metrics_table(summary: Summary, machine: Machine) -> Table:
    cells = statistic_cells(summary).xs(machine.name, level="column").unstack("metric")
    cells = cells.reindex(index=list(summary.systems), columns=summary_metrics(summary.dataset)).reset_index()
    mean = ", means over the sections" if len(machine.sections) > 1 else ""
    return Table(f"{machine.name}: metrics in percent{mean}", cells, 1)


def rank_clips(scores: dict[str, list[SectionScores]], directory: Path) -> list[dict[str, Any]]:
    """The clips of a section, sorted by the first system's scores, highest first.

    Args:
        scores: system → the scores of each seed.
        directory: of the page.

    Returns:
        For each clip: name, domain, label, address relative to the page (empty if the file does not exist), and for
        each system the rank (1: highest mean score, 0: not tested), mean score and decision.
    """
    clips = {clip.name: clip for results in scores.values() for result in results for clip in result.clips}
    systems = [_rank(results).to_dict("index") if results else {} for results in scores.values()]
    unknown = {"rank": 0, "score": math.nan, "decision": ""}
    lines = [
        {
            "name": name,
            # An unlabelled clip may be of an unknown domain: its name does not say.
            "domain": "target" if clip.is_target else "" if clip.is_anomaly is None else "source",
            "label": {True: "anomaly", False: "normal", None: ""}[clip.is_anomaly],
            "address": quote(Path(os.path.relpath(clip.path, directory)).as_posix()) if clip.path.exists() else "",
            "systems": [ranks.get(name, unknown) for ranks in systems],
        }
        for name, clip in clips.items()
    ]
    return sorted(lines, key=lambda line: [system["rank"] or len(clips) + 1 for system in line["systems"]])


def _rank(results: Sequence[SectionScores]) -> pd.DataFrame:
    """Clip name → rank, mean score and decision of one system."""
    seeds = [
        pd.DataFrame({"clip": [c.name for c in result.clips], "score": result.scores, "decision": result.decisions})
        for result in results
    ]
    clips = pd.concat(seeds).groupby("clip", sort=False).agg({"score": "mean", "decision": _decided})
    return clips.assign(rank=clips["score"].rank(method="first", ascending=False).astype(int))


def _decided(decisions: pd.Series) -> str:
    """`anomaly` or `normal`; if seeds differ, how many say `anomaly`."""
    known = decisions.dropna().astype(int)
    if len(set(known)) == 1:
        return "anomaly" if known.iloc[0] else "normal"
    return f"anomaly {known.sum()} of {len(known)}" if len(known) else ""


def _embed(plots: Sequence[tuple[str, Path]]) -> list[tuple[str, str]]:
    """Captions and contents (base64) of the existing plots."""
    return [(caption, base64.b64encode(path.read_bytes()).decode()) for caption, path in plots if path.exists()]


def parameter_table(summary: Summary) -> Table:
    """Parameters, device and versions of the models of each tag. If models differ, all values are listed."""
    tags = list(dict.fromkeys(run.config.model_name_suffix for run in summary.runs))
    rows = []
    for run, machine in itertools.product(summary.runs, _machines(summary)):
        for section in machine.sections:
            training = dict((run.record(machine, section) or {}).get("training", {}))
            training |= {f"version of {name}": version for name, version in training.pop("versions", {}).items()}
            for name, value in training.items():
                if name not in NOT_SHOWN:
                    rows.append((name, run.config.model_name_suffix, str(value)))
    values = pd.DataFrame(rows, columns=["parameter", "tag", "value"]).drop_duplicates()
    table = values.groupby(["parameter", "tag"], sort=False)["value"].agg(", ".join).unstack("tag")
    table = table.reindex(index=values["parameter"].unique(), columns=tags).fillna("")
    defaults = _defaults()
    table.insert(0, "baseline.yaml", [str(defaults.get(name, "")) for name in table.index])
    cells = table.reset_index().set_axis(["", "baseline.yaml", *(tag or "models" for tag in tags)], axis=1)
    return Table("Parameters, device and versions of the models", cells, 1)
