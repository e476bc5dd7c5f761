"""Plots of losses, anomaly scores, ROC curves, reconstructions and summaries.

The colours are safe for colour-blind readers. ROC curves and reconstructions are as wide as a column of a paper.

T: frames per clip, M: mel bands.
"""

import functools
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from files import atomic_path
from tools.results.metrics import clips_of_metric
from tools.results.score_files import SectionScores

COLUMN = 3.5  # inches, the width of a column in two-column papers
NO_MATH = {"text.parse_math": False}  # names of clips and tags may contain dollar signs
IN_A_COLUMN = NO_MATH | {
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.1,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7,
    "pdf.fonttype": 42,  # TrueType: many publishers refuse Type 3 fonts
}
CREATOR = "baseline for DCASE Task 2"  # in the metadata of each plot
HERTZ = (0, 100, 250, 500, 1000, 2000, 4000, 8000, 16000, 32000, 64000)  # ticks of frequency axes

# Okabe and Ito's palette, https://jfly.uni-koeln.de/color/
BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"
GREY = "#666666"
ROC_STYLES = {
    "pAUC": (GREY, "-"),
    "AUC": (BLUE, "-"),
    "AUC (source)": (BLUE, "-"),
    "AUC (target)": (VERMILLION, "--"),
}
LABELS = {False: ("normal", BLUE, "o"), True: ("anomaly", VERMILLION, "X"), None: ("no label", GREY, "o")}

log = logging.getLogger("baseline")


def _plot(style: dict[str, Any] = NO_MATH) -> Callable[[Callable], Callable]:
    """Decorator: draw the plot in this style, without the user's matplotlibrc.

    If matplotlib's font lacks letters of a title, the plot is drawn again with all installed fonts as fallbacks.
    """

    def decorate(draw: Callable) -> Callable:
        @functools.wraps(draw)
        def plot(*arguments: Any) -> None:
            lacking = _draw(style, draw, *arguments)
            if lacking and (others := _installed_fonts()):
                lacking = _draw(style | {"font.family": ["DejaVu Sans", *others]}, draw, *arguments)
            if lacking:
                _warn_of_letters(lacking)

        return plot

    return decorate


def _draw(style: dict[str, Any], draw: Callable, *arguments: Any) -> str:
    """Draw a plot and return the letters that no font has."""
    with warnings.catch_warnings(record=True) as caught, matplotlib.rc_context():
        warnings.simplefilter("always")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style)
        draw(*arguments)
    for warning in caught:
        log.debug("%s", warning.message)
    glyphs = [re.match(r"Glyph (\d+)", str(warning.message)) for warning in caught]
    return "".join(dict.fromkeys(chr(int(glyph[1])) for glyph in glyphs if glyph))


def _installed_fonts() -> list[str]:
    """The fonts of this machine, without matplotlib's own: one of these draws boxes for all letters that it lacks."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # no warnings of missing weights
    own = matplotlib.get_data_path()
    return sorted({font.name for font in fontManager.ttflist if not font.fname.startswith(own)})


@functools.cache  # once
def _warn_of_letters(letters: str) -> None:
    log.warning(
        "no installed font has the letters %s of a plot. Install one that does, such as Noto Sans CJK.", letters
    )


@_plot()
def plot_losses(path: Path, title: str, loss: Sequence[float], valid_loss: Sequence[float]) -> None:
    """Training and validation loss of each epoch."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    epochs = range(1, len(loss) + 1)
    marker = "." if len(loss) < 30 else None
    axes.plot(epochs, loss, color=BLUE, marker=marker, label="training (mean over the epoch)")
    axes.plot(epochs, valid_loss, color=VERMILLION, marker=marker, linestyle="--", label="validation (after the epoch)")
    axes.set(title=title, xlabel="epoch", ylabel="loss: mean squared error (dB²)", yscale="log")
    _label_log_ticks(axes.yaxis)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(which="both", alpha=0.3)
    axes.legend(frameon=False)
    _save(figure, path)


def _label_log_ticks(axis: Axis) -> None:
    """Label the ticks of a logarithmic axis with plain numbers: matplotlib's own labels need math text."""

    def label(value: float, _: int) -> str:
        low, high = axis.get_view_interval()
        return f"{value:g}" if high < 3 * low or f"{value:e}"[0] in "125" else ""

    axis.set_major_formatter(label)
    axis.set_minor_formatter(label)


@_plot()
def plot_scores(path: Path, title: str, results: Sequence[SectionScores]) -> None:
    """The anomaly scores of each section's clips by domain and label, with the decision threshold if it is known."""
    figure = Figure(figsize=(8, 0.6 + 2.9 * len(results)), layout="constrained")
    figure.suptitle(title)
    for axes, result in zip(figure.subplots(len(results), squeeze=False).flat, results, strict=True):
        _plot_groups(axes, result)
        metrics = result.metrics() if result.labelled else {}
        names = [name for name in ("AUC", "AUC (source)", "AUC (target)", "pAUC") if name in metrics]
        values = ", ".join(f"{name} {100 * metrics[name]:.1f} %" for name in names)
        section = f"section {result.section}" + (f": {values}" if values else "")
        axes.set_title(section, loc="left", fontsize="medium", pad=18)
        if result.threshold is not None:
            _plot_threshold(axes, result.threshold)
    _save(figure, path)


def _plot_groups(axes: Axes, result: SectionScores) -> None:
    """A row of points for each domain and label."""
    jitter = np.random.default_rng(0)
    clip_groups = [(clip.is_target, clip.is_anomaly) for clip in result.clips]
    names = []
    for row, group in enumerate(sorted(set(clip_groups), key=str)):
        scores = np.array([s for s, clip_group in zip(result.scores, clip_groups, strict=True) if clip_group == group])
        label, color, marker = LABELS[group[1]]
        heights = row + jitter.uniform(-0.25, 0.25, len(scores))
        axes.scatter(scores, heights, s=26, c=color, marker=marker, alpha=0.6, linewidths=0)
        axes.vlines(np.median(scores), row - 0.4, row + 0.4, color="black", linewidth=2)
        domain = "target" if group[0] else "source"
        names.append(f"test clips\n({label})" if group[1] is None else f"{domain}\n{label}")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    if min(result.scores) > 0 and max(result.scores) > 20 * min(result.scores):
        axes.set_xscale("log")
        _label_log_ticks(axes.xaxis)
    axes.set_xlabel("anomaly score (black bars: medians)")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _plot_threshold(axes: Axes, threshold: float) -> None:
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1)
    axes.get_xlim()  # updates the limits, which transData uses
    x, _ = axes.transAxes.inverted().transform(axes.transData.transform((threshold, 0)))
    side, offset = ("left", 4) if x < 0.5 else ("right", -4)  # towards the middle
    text, place = f"decision threshold {threshold:.5g}", {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate(text, (x, 1), xytext=(offset, 3), ha=side, fontsize="small", **place)


@_plot(IN_A_COLUMN)
def plot_roc(path: Path, title: str, results: Sequence[SectionScores]) -> None:
    """ROC curves of each section's labelled clips: by domain, and of all clips with the area of pAUC shaded."""
    figure = Figure(figsize=(COLUMN, 0.3 + 3.1 * len(results)), layout="constrained")
    for axes, result in zip(figure.subplots(len(results), squeeze=False).flat, results, strict=True):
        axes.set_title(f"{title}, section {result.section}", loc="left")
        _plot_roc_curves(axes, result)
    _save(figure, path, dpi=250)


def _plot_roc_curves(axes: Axes, result: SectionScores) -> None:
    from sklearn.metrics import roc_curve

    metrics, scores, max_fpr = result.metrics(), np.array(result.scores), result.max_fpr
    is_anomaly, is_target = np.array([(clip.is_anomaly, clip.is_target) for clip in result.clips]).T
    for metric, (color, style) in ROC_STYLES.items():
        if np.isnan(metrics.get(metric, np.nan)):
            continue
        chosen = clips_of_metric(metric, is_anomaly, is_target)
        fpr, tpr, _ = roc_curve(is_anomaly[chosen], scores[chosen])
        label = f"{metric}: {100 * metrics[metric]:.1f} %"
        if metric == "pAUC":
            inside = np.linspace(0, max_fpr, 1000)  # the curve has steps
            axes.fill_between(inside, np.interp(inside, fpr, tpr), color=color, alpha=0.25, linewidth=0)
            axes.axvline(max_fpr, color=color, linewidth=0.6, linestyle=":")
            label += f" (all clips, FPR ≤ {max_fpr:g})"
        axes.plot(fpr, tpr, color=color, linestyle=style, label=label)
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.6, linestyle=":", label="chance")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend(loc="lower right", framealpha=0.9, edgecolor="none", borderaxespad=0.2)


@dataclass(frozen=True)
class Reconstruction:
    """A clip's log-mel frames, their reconstruction, and the contribution of each value to the anomaly score."""

    title: str
    log_mel: np.ndarray  # (T, M) dB
    reconstruction: np.ndarray  # (T, M) dB, the mean over all vectors that contain the frame; `nan` without any
    squared_error: np.ndarray  # (T,) dB², the mean over a frame's bands and vectors; `nan` without any
    contribution: np.ndarray  # (T, M); the sum is the anomaly score
    score_name: str
    frame_rate: float  # frames per second
    band_centers: np.ndarray  # (M,) Hz

    @property
    def shares(self) -> np.ndarray:
        """The contributions in percent of the score, (T, M); 0 if the score is 0."""
        return 100 * self.contribution / (self.contribution.sum() or np.inf)


@_plot(IN_A_COLUMN)
def plot_reconstruction(path: Path, clip: Reconstruction) -> None:
    """A clip's log-mel frames, their reconstruction, the error, and the share of each mel band in the score."""
    error = clip.reconstruction - clip.log_mel
    # The colour ranges leave out extreme values: these would reduce the contrast of all others.
    low, high = np.nanpercentile(np.concatenate([clip.log_mel, clip.reconstruction]), [0.5, 99.5])
    largest = np.nanpercentile(np.abs(error), 99.5) or 1.0
    energies = {"cmap": "magma", "vmin": low, "vmax": high}
    maps = [
        ("input: log-mel spectrogram", clip.log_mel, energies, "energy (dB)"),
        ("reconstruction", clip.reconstruction, energies, "energy (dB)"),
        ("error: reconstruction − input", error, {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}, "error (dB)"),
    ]
    n_frames, n_mels = clip.log_mel.shape
    extent = (-0.5 / clip.frame_rate, (n_frames - 0.5) / clip.frame_rate, -0.5, n_mels - 0.5)
    figure = Figure(figsize=(COLUMN, 6.6), layout="constrained")
    figure.get_layout_engine().set(wspace=0.01, w_pad=0.02)
    figure.suptitle(clip.title, fontsize="medium")
    grid = figure.add_gridspec(5, 2, width_ratios=(1, 0.035), height_ratios=(1, 1, 1, 0.8, 0.8))
    for row, (title, values, colors, label) in enumerate(maps):
        axes = figure.add_subplot(grid[row, 0])
        axes.set_title(title, loc="left")
        image = axes.imshow(values.T, origin="lower", aspect="auto", extent=extent, interpolation="nearest", **colors)
        axes.set_ylabel("frequency (Hz)")
        axes.set_yticks(*_hertz_ticks(clip.band_centers))
        axes.tick_params(labelbottom=row == 2)
        figure.colorbar(image, cax=figure.add_subplot(grid[row, 1]), label=label)
    axes.set_xlabel("time (s)")
    _plot_error(figure.add_subplot(grid[3, 0]), clip, xlim=extent[:2])
    _plot_bands(figure.add_subplot(grid[4, :]), clip)
    _save(figure, path, dpi=250)


def _hertz_ticks(band_centers: np.ndarray) -> tuple[list[float], list[str]]:
    """Positions and labels of ticks in Hz on an axis of mel bands, as many as fit."""
    ticks: dict[float, str] = {}
    for hertz in HERTZ:
        place = float(np.interp(hertz, band_centers, np.arange(len(band_centers))))
        is_inside = band_centers[0] - 50 <= hertz <= 1.05 * band_centers[-1]
        if is_inside and (not ticks or place - max(ticks) > 0.08 * len(band_centers)):
            ticks[place] = str(hertz)
    return list(ticks), list(ticks.values())


def _plot_error(axes: Axes, clip: Reconstruction, xlim: tuple[float, float]) -> None:
    """The squared error over time; for scores other than MSE, also each frame's share of the score."""
    seconds = np.arange(len(clip.log_mel)) / clip.frame_rate
    axes.set_title("error over time (dashed: mean)", loc="left")
    axes.plot(seconds, clip.squared_error, color=BLUE)
    axes.axhline(np.nanmean(clip.squared_error), color=BLUE, linewidth=0.6, linestyle="--")
    axes.set(xlabel="time (s)", xlim=xlim, ylim=(0, None))
    axes.set_ylabel("squared error (dB²)", color=BLUE)
    axes.grid(alpha=0.3, linewidth=0.5)
    if clip.score_name != "MSE":
        other = axes.twinx()
        other.plot(seconds, clip.shares.sum(axis=1), color=VERMILLION, linewidth=0.9)
        other.set_ylabel(f"share of {clip.score_name} (%)", color=VERMILLION)


def _plot_bands(axes: Axes, clip: Reconstruction) -> None:
    """The share of each mel band in the score."""
    shares = clip.shares.sum(axis=0)  # (M,)
    numbers = np.arange(len(shares))
    largest = np.argsort(-shares)[:3]
    axes.bar(numbers, shares, width=1.0, color=np.where(np.isin(numbers, largest), VERMILLION, BLUE), linewidth=0)
    text = "largest: " + ", ".join(f"{clip.band_centers[band]:.0f} Hz {shares[band]:.0f} %" for band in largest)
    axes.text(0.01, 0.97, text, color=VERMILLION, fontsize="small", transform=axes.transAxes, ha="left", va="top")
    axes.set_title(f"share of each mel band in the {clip.score_name} score", loc="left")
    top = 1.3 * max(shares.max(), 1e-9)  # room for the text
    axes.set(xlabel="frequency (Hz)", ylabel="share (%)", xlim=(-0.5, len(shares) - 0.5), ylim=(None, top))
    axes.axhline(0, color="black", linewidth=0.6)
    axes.grid(axis="y", alpha=0.3, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_xticks(*_hertz_ticks(clip.band_centers))


@_plot()
def plot_summary(path: Path, title: str, values: Sequence[tuple[str, str, str, float]]) -> None:
    """Bars of each metric by machine type and system, with the standard deviation over seeds.

    Args:
        values: for each seed: system, metric, machine type or mean, value in percent. If empty, nothing is drawn.
    """
    import pandas
    import seaborn

    if not values:
        return
    table = pandas.DataFrame(values, columns=["system", "metric", "machine", "value"])
    systems, metrics, n_machines = table["system"].unique(), table["metric"].unique(), table["machine"].nunique()
    palette = dict(zip(systems, (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION) * 9, strict=False))
    bars = {"x": "machine", "y": "value", "hue": "system", "palette": palette, "errorbar": "sd"}
    width = max(8.0, 2.0 + 0.28 * n_machines * len(systems))
    figure = Figure(figsize=(width, 2.5 * len(metrics)), layout="constrained")
    figure.suptitle(f"{title} (dotted line: chance)")
    for axes, metric in zip(figure.subplots(len(metrics), sharex=True, squeeze=False).flat, metrics, strict=True):
        rows = table[table["metric"] == metric]
        seaborn.barplot(rows, **bars, err_kws={"linewidth": 1.2}, ax=axes)
        axes.axhline(50, color="black", linewidth=1, linestyle=":")
        axes.set(xlabel="", ylabel=f"{metric} (%)", ylim=(0, 100))
        axes.get_legend().remove()
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="x", rotation=20 if n_machines > 6 else 0)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    _save(figure, path)


def _save(figure: Figure, path: Path, dpi: int = 150) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=dpi, metadata={"Creator": CREATOR})


def is_plot(path: Path) -> bool:
    """Whether this module wrote a plot file."""
    return CREATOR.encode() in path.read_bytes()
