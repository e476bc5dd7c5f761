"""Scores of the test clips of a machine type → its score and decision CSVs, metrics, plots and test record."""

import logging
from collections.abc import Sequence

from config import BaselineError, Config
from datasets.catalog import Machine
from datasets.clips import Clip, find_clips
from files import alone, remove
from tools.results.draw import save_plot
from tools.results.metrics import MEANS
from tools.results.score_files import SectionScores, read_sections, write_metrics, write_section, write_test_record
from tools.training.console import shown
from tools.training.model_files import TrainedModel, read_threshold
from tools.training.paths import RunPaths, run_paths

log = logging.getLogger("baseline")


def write_results(
    config: Config,
    machine: Machine,
    paths: RunPaths,
    clips: Sequence[Clip],
    scores: Sequence[float],
    decisions: Sequence[int] | None,
    model: TrainedModel,
) -> None:
    """Write everything that a test leaves, for each section of the clips.

    Args:
        decisions: of each clip, 1: anomalous; None: the model's threshold is unknown.

    Raises:
        BaselineError: a score is not a finite number, or a file cannot be written.
    """
    sections = sorted({clip.section for clip in clips})
    with alone(paths.result_lock, f"waiting for another run that writes results of {machine.name}"):
        for section in sections:
            chosen = [k for k, clip in enumerate(clips) if clip.section == section]
            section_clips, section_scores = [clips[k] for k in chosen], [scores[k] for k in chosen]
            section_decisions = None if decisions is None else [decisions[k] for k in chosen]
            write_section(paths, SectionScores(section, section_clips, section_scores, section_decisions))
        _write_metrics_and_plots(config, machine, paths, dict.fromkeys(sections, model.threshold))
        write_test_record(paths, clips, model.checksum)


def _write_metrics_and_plots(
    config: Config, machine: Machine, paths: RunPaths, thresholds: dict[str, float | None]
) -> None:
    """The metrics and plots of all sections that have scores, and a line on those of `thresholds`, just tested."""
    clips_by_section = {}
    for section in machine.sections:
        if not paths.anomaly_scores(section).exists():
            continue
        try:
            clips_by_section[section] = find_clips(machine, config.dataset_directory, "test", (section,))
        except BaselineError as error:
            log.warning("section %s is left out: %s", section, error)
    results = read_sections(paths, clips_by_section)
    labelled = [result for result in results if result.labelled]
    summary = f"{sum(len(clips_by_section.get(section, ())) for section in thresholds)} clips scored"
    title = f"{machine.dataset.name} {machine.name}, {config.score}"
    if labelled:
        rows = write_metrics(paths, labelled, config.max_fpr)
        mean = MEANS[machine.dataset.official_score["mean"]]
        for name in ("AUC", "AUC (source)", "AUC (target)", "pAUC"):
            values = [rows[section][name] for section in thresholds if name in rows.get(section, ())]
            summary += f", {name} {100 * mean(values):.2f} %" if values else ""
        save_plot("plot_roc", paths.roc_plot, title, labelled, config.max_fpr)
    else:
        remove(paths.metrics)  # older ones do not belong to these scores
        remove(paths.roc_plot)
    for section in clips_by_section.keys() - thresholds.keys():
        thresholds[section] = _threshold_of_other_model(section, config, machine)
    save_plot("plot_scores", paths.score_plot, title, results, thresholds, config.max_fpr)
    log.info("%s: %s -> %s", config.score, summary, shown(paths.result_dir))


def _threshold_of_other_model(section: str, config: Config, machine: Machine) -> float | None:
    """The decision threshold of another section's model, or None if it is unknown or its file cannot be used."""
    try:
        return read_threshold(config, run_paths(config, machine, (section,)))
    except BaselineError as error:
        log.warning("section %s is drawn without its decision threshold: %s", section, error)
        return None
