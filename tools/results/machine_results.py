"""Write the results of a machine type's test: score and decision CSVs, metrics, plots and test record."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from config import BaselineError
from datasets.catalog import Machine
from datasets.clips import Clip
from files import process_lock, remove
from tools.results.belonging import Tested, find_mismatches
from tools.results.draw import save_plot
from tools.results.metrics import MEANS
from tools.results.runs import Run
from tools.results.score_files import SectionScores, read_section, write_metrics, write_section
from tools.results.test_records import read_test_record, write_test_record
from tools.training.console import shown
from tools.training.paths import RunPaths

log = logging.getLogger("baseline")


def write_results(
    machine: Machine,
    paths: RunPaths,
    clips: Sequence[Clip],
    scores: Sequence[float],
    decisions: Sequence[int] | None,
    record: dict[str, Any],
) -> None:
    """Write all results of a test, for each section of the clips.

    Args:
        decisions: for each clip, 1: anomalous, 0: normal; None: the model's threshold is unknown.
        record: see make_test_record.

    Raises:
        BaselineError: a score is not a finite number, or a file cannot be written.
    """
    results = {}
    for section in sorted({clip.section for clip in clips}):
        chosen = [k for k, clip in enumerate(clips) if clip.section == section]
        parts = [values and [values[k] for k in chosen] for values in (clips, scores, decisions)]
        results[section] = SectionScores(section, *parts, record["max_fpr"], record["threshold"])
    with process_lock(paths.result_lock, f"waiting for another run that writes results of {machine.name}"):
        for result in results.values():
            write_section(paths, result)
        metrics = _write_metrics_and_plots(machine, paths, results, record)
        write_test_record(paths, record | {"metrics": metrics})


def _write_metrics_and_plots(
    machine: Machine, paths: RunPaths, tested: dict[str, SectionScores], record: dict[str, Any]
) -> dict[str, dict[str, float]]:
    """Write the metrics and plots of all sections with scores, and log the metrics of the sections just tested.

    Returns:
        Section → metric → value, for the sections just tested, if their labels are known.
    """
    results, records, rows = {}, {}, {}
    for section in machine.sections:
        try:
            records[section] = record if section in tested else read_test_record(paths, section)
            result = tested.get(section) or read_section(paths, section, machine.directory(Path()))
        except BaselineError as error:
            log.warning("%s: section %s is left out: %s", paths.metrics.name, section, error)
            continue
        if result:
            results[section] = result
    labelled = [result for result in results.values() if result.labelled]
    summary = []
    title = f"{machine.dataset.name} {machine.name}, {paths.config.score}"
    if labelled:
        run = Run(paths.config, machine.dataset)
        tests = [Tested(run, machine.name, result.section, records[result.section]) for result in labelled]
        mismatches = find_mismatches(tests)
        for (_, _, section), reason in mismatches.items():
            log.warning("%s: no means, because section %s differs: %s.", paths.metrics.name, section, reason)
        rows = write_metrics(paths, labelled, with_means=not mismatches)
        mean = MEANS[machine.dataset.official_score["mean"]]
        for name in ("AUC", "AUC (source)", "AUC (target)", "pAUC"):
            values = [rows[section][name] for section in tested if name in rows.get(section, ())]
            summary += [f"{name} {100 * mean(values):.2f} %"] if values else []
        save_plot("plot_roc", paths.roc_plot, title, labelled)
    else:
        remove(paths.metrics)  # old files would not match these scores
        remove(paths.roc_plot)
    save_plot("plot_scores", paths.score_plot, title, list(results.values()))
    n_clips = sum(len(result.clips) for result in tested.values())
    text = ", ".join(summary) or f"{n_clips} clips scored, without labels"
    log.info("%s: %s -> %s", paths.config.score, text, shown(paths.result_dir))
    return {section: rows[section] for section in tested if section in rows}
