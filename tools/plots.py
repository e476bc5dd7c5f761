"""Pictures of losses, anomaly scores and summaries, in colours that colour-blind readers can tell apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from files import atomic_path

if TYPE_CHECKING:
    from tools.results import SectionScores

# Okabe and Ito's palette, https://jfly.uni-koeln.de/color/
BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE, GREY = (
    *("#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#666666"),
)
STYLES = {False: ("normal", BLUE, "o"), True: ("anomaly", VERMILLION, "X"), None: ("no label", GREY, "o")}


def plot_losses(path: Path, title: str, loss: Sequence[float], valid_loss: Sequence[float]) -> None:
    """Training and validation loss of each epoch."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    epochs = range(1, len(loss) + 1)
    marker = "." if len(loss) < 30 else None
    axes.plot(epochs, loss, color=BLUE, marker=marker, label="training (batches, as they were learnt)")
    axes.plot(epochs, valid_loss, color=VERMILLION, marker=marker, linestyle="--", label="validation (evaluation mode)")
    axes.set(title=title, xlabel="epoch", ylabel="mean squared error of log-mel energies (dB²)", yscale="log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(which="both", alpha=0.3)
    axes.legend(frameon=False)
    _save(figure, path)


def plot_scores(
    path: Path, title: str, results: "Sequence[SectionScores]", thresholds: dict[str, float | None], max_fpr: float
) -> None:
    """The anomaly scores of each section's clips by domain and label, with the decision threshold.

    Args:
        thresholds: section → decision threshold, of the sections where it is known.
    """
    figure = Figure(figsize=(8, 0.6 + 2.9 * len(results)), layout="constrained")
    figure.suptitle(title)
    for axes, result in zip(figure.subplots(len(results), squeeze=False)[:, 0], results, strict=True):
        _plot_section(axes, result, thresholds.get(result.section), max_fpr)
    _save(figure, path)


def _plot_section(axes: Axes, result: "SectionScores", threshold: float | None, max_fpr: float) -> None:
    jitter = np.random.default_rng(0)
    groups = sorted({(clip.is_target, clip.is_anomaly) for clip in result.clips}, key=str)
    for row, (is_target, is_anomaly) in enumerate(groups):
        chosen = [(clip.is_target, clip.is_anomaly) == (is_target, is_anomaly) for clip in result.clips]
        scores = np.array(result.scores)[chosen]
        _, color, marker = STYLES[is_anomaly]
        heights = row + jitter.uniform(-0.25, 0.25, len(scores))
        axes.scatter(scores, heights, s=26, c=color, marker=marker, alpha=0.6, linewidths=0)
        axes.vlines(np.median(scores), row - 0.4, row + 0.4, color="black", linewidth=2)
    names = [_group_name(result, is_target, is_anomaly) for is_target, is_anomaly in groups]
    axes.set_yticks(range(len(groups)), names)
    axes.invert_yaxis()
    if threshold is not None:
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1)
    if min(result.scores) > 0 and max(result.scores) > 20 * min(result.scores):
        axes.set_xscale("log")
    if threshold is not None:
        axes.get_xlim()  # brings the limits up to date that the transformation rests on
        x, _ = axes.transAxes.inverted().transform(axes.transData.transform((threshold, 0)))
        axes.annotate(
            f"decision threshold {threshold:.5g}",
            (x, 1),
            xycoords="axes fraction",
            xytext=(4, 3) if x < 0.5 else (-4, 3),  # towards the middle
            textcoords="offset points",
            ha="left" if x < 0.5 else "right",
            fontsize="small",
        )
    axes.set_xlabel("anomaly score (bars: medians)")
    axes.set_title(_section_title(result, max_fpr), loc="left", fontsize="medium", pad=18)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _group_name(result: "SectionScores", is_target: bool, is_anomaly: bool | None) -> str:
    label = STYLES[is_anomaly][0]
    if is_anomaly is None:
        return f"test clips\n({label})"
    return f"{'target' if is_target else 'source'}\n{label}"


def _section_title(result: "SectionScores", max_fpr: float) -> str:
    text = f"section {result.section}"
    if result.labelled:
        metrics = result.metrics(max_fpr)
        names = [name for name in ("AUC", "AUC (source)", "AUC (target)", "pAUC") if name in metrics]
        text += ": " + ", ".join(f"{name} {100 * metrics[name]:.1f} %" for name in names)
    return text


def plot_summary(path: Path, title: str, values: Sequence[tuple[str, str, str, float]]) -> None:
    """Bars of each metric by machine type and system, with the standard deviation over seeds.

    Args:
        values: system, metric, machine type or mean, and value (percent) of each seed. Without any, nothing is drawn.
    """
    import pandas
    import seaborn

    if not values:
        return
    table = pandas.DataFrame(values, columns=["system", "metric", "machine", "value"])
    metrics = list(dict.fromkeys(table["metric"]))
    n_bars = table["machine"].nunique() * table["system"].nunique()
    figure = Figure(figsize=(max(8.0, 2.0 + 0.28 * n_bars), 2.5 * len(metrics)), layout="constrained")
    figure.suptitle(f"{title} (dotted: chance)")
    palette = dict(zip(table["system"].unique(), (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION) * 9, strict=False))
    for axes, metric in zip(figure.subplots(len(metrics), sharex=True, squeeze=False)[:, 0], metrics, strict=True):
        seaborn.barplot(
            table[table["metric"] == metric],
            x="machine",
            y="value",
            hue="system",
            errorbar="sd",
            palette=palette,
            ax=axes,
            err_kws={"linewidth": 1.2},
        )
        axes.axhline(50, color="black", linewidth=1, linestyle=":")
        axes.set(xlabel="", ylabel=f"{metric} (%)", ylim=(0, 100))
        axes.get_legend().remove()
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="x", rotation=20 if table["machine"].nunique() > 6 else 0)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
