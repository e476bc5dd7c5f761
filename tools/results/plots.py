"""Pictures of losses, anomaly scores, ROC curves, reconstructions and summaries.

Colours are such that colour-blind readers can tell them apart. ROC curves and reconstructions are as wide as a
column of a paper.

T: frames of a clip, M: mel bands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FixedLocator, NullLocator

from files import atomic_path
from tools.results.metrics import clips_of_metric, roc_curve

if TYPE_CHECKING:
    from tools.results.score_files import SectionScores

COLUMN = 3.5  # inches, the width of a column in two-column papers
# Their text is readable in a column.
IN_A_COLUMN = {
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.1,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7,
    "text.parse_math": False,  # names of clips may hold dollar signs
    "pdf.fonttype": 42,  # TrueType: Type 3 fonts are refused by many publishers
}
HERTZ = (0, 100, 250, 500, 1000, 2000, 4000, 8000, 16000, 32000, 64000)  # ticks of frequency axes

# Okabe and Ito's palette, https://jfly.uni-koeln.de/color/
BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE, GREY = (
    *("#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#666666"),
)
ROC_STYLES = {
    "pAUC": (GREY, "-"),
    "AUC": (BLUE, "-"),
    "AUC (source)": (BLUE, "-"),
    "AUC (target)": (VERMILLION, "--"),
}
LABELS = ("is_anomaly", "is_target")  # of clips
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


def plot_roc(path: Path, title: str, results: "Sequence[SectionScores]", max_fpr: float) -> None:
    """ROC curves of each section's clips, by domain and of all, with the region that pAUC is the area of.

    Args:
        results: of labelled clips.
    """
    with matplotlib.rc_context(IN_A_COLUMN):
        figure = Figure(figsize=(COLUMN, 0.3 + 3.1 * len(results)), layout="constrained")
        for axes, result in zip(figure.subplots(len(results), squeeze=False)[:, 0], results, strict=True):
            axes.set_title(f"{title}, section {result.section}", loc="left")
            _plot_roc_curves(axes, result, max_fpr)
        _save(figure, path, dpi=250)


def _plot_roc_curves(axes: Axes, result: "SectionScores", max_fpr: float) -> None:
    metrics, scores = result.metrics(max_fpr), np.array(result.scores)
    is_anomaly, is_target = (np.array([getattr(clip, name) for clip in result.clips]) for name in LABELS)
    for metric, (color, style) in ROC_STYLES.items():
        if np.isnan(metrics.get(metric, np.nan)):
            continue
        chosen = clips_of_metric(metric, is_anomaly, is_target)
        fpr, tpr = roc_curve(is_anomaly[chosen], scores[chosen])
        label = f"{metric} {100 * metrics[metric]:.1f} %"
        if metric == "pAUC":
            inside = np.linspace(0, max_fpr, 1000)  # the curve has steps
            heights = np.interp(inside, fpr, tpr)
            axes.fill_between(inside, heights, color=color, alpha=0.25, linewidth=0)
            axes.axvline(max_fpr, color=color, linewidth=0.6, linestyle=":")
            label += f" (shaded: FPR ≤ {max_fpr:g})"
        axes.plot(fpr, tpr, color=color, linestyle=style, label=label)
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.6, linestyle=":", label="chance")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend(loc="lower right", framealpha=0.9, edgecolor="none", borderaxespad=0.2)


@dataclass(frozen=True)
class Reconstruction:
    """A clip's log-mel frames, what the network makes of them, and how that makes its anomaly score.

    Attributes:
        log_mel: (T, M) dB.
        reconstruction: (T, M) dB, the mean over the vectors that a frame is in; `nan` where it is in none.
        squared_error: (T,) dB², the mean over a frame's bands and vectors; `nan` likewise.
        contribution: (T, M), whose sum is the anomaly score.
        frame_rate: frames a second.
        band_centers: (M,) Hz.
    """

    title: str
    log_mel: np.ndarray
    reconstruction: np.ndarray
    squared_error: np.ndarray
    contribution: np.ndarray
    score_name: str
    frame_rate: float
    band_centers: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """The contributions (T, M) as percent of the score; 0 where it is 0."""
        return 100 * self.contribution / (self.contribution.sum() or np.inf)


def plot_reconstruction(path: Path, shown: Reconstruction) -> None:
    """A clip's log-mel frames, their reconstruction, the error over time and frequency and over time, and the bands."""
    seconds = np.arange(len(shown.log_mel)) / shown.frame_rate
    difference = shown.reconstruction - shown.log_mel
    # The colours' range leaves out single values, so that these do not take the contrast of all the others.
    low, high = np.nanpercentile(np.concatenate([shown.log_mel, shown.reconstruction]), [0.5, 99.5])
    largest = np.nanpercentile(np.abs(difference), 99.5) or 1.0
    of_energy = {"cmap": "magma", "vmin": low, "vmax": high}
    of_error = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
    with matplotlib.rc_context(IN_A_COLUMN):
        figure = Figure(figsize=(COLUMN, 6.6), layout="constrained")
        figure.get_layout_engine().set(wspace=0.01, w_pad=0.02)
        figure.suptitle(shown.title, fontsize="medium")
        grid = figure.add_gridspec(5, 2, width_ratios=(1, 0.035), height_ratios=(1, 1, 1, 0.8, 0.8))
        for row, (title, values, colors, label) in enumerate(
            (
                ("input", shown.log_mel, of_energy, "energy (dB)"),
                ("reconstruction", shown.reconstruction, of_energy, "energy (dB)"),
                ("error: reconstruction − input", difference, of_error, "error (dB)"),
            )
        ):
            axes = figure.add_subplot(grid[row, 0])
            axes.set_title(title, loc="left")
            image = _plot_map(axes, values, shown, colors)
            axes.tick_params(labelbottom=row == 2)
            figure.colorbar(image, cax=figure.add_subplot(grid[row, 1]), label=label)
        axes.set_xlabel("time (s)")
        _plot_error(figure.add_subplot(grid[3, 0]), seconds, shown)
        _plot_bands(figure.add_subplot(grid[4, :]), shown)
        _save(figure, path, dpi=250)


def _plot_map(axes: Axes, values: np.ndarray, shown: Reconstruction, colors: dict) -> AxesImage:
    n_frames, n_mels = values.shape
    step = 1 / shown.frame_rate
    extent = (-step / 2, (n_frames - 0.5) * step, -0.5, n_mels - 0.5)
    axes.set_ylabel("frequency (Hz)")
    _set_hertz(axes.yaxis, shown.band_centers)
    return axes.imshow(values.T, origin="lower", aspect="auto", extent=extent, interpolation="nearest", **colors)


def _set_hertz(axis, band_centers: np.ndarray) -> None:
    """Ticks in Hz on an axis of band numbers, as many as there is room for."""
    numbers = np.arange(len(band_centers))
    places: list[tuple[float, int]] = []
    for hertz in HERTZ:
        place = float(np.interp(hertz, band_centers, numbers))
        is_inside = band_centers[0] - 50 <= hertz <= 1.05 * band_centers[-1]
        if is_inside and (not places or place - places[-1][0] > 0.08 * len(numbers)):
            places.append((place, hertz))
    axis.set_major_locator(FixedLocator([place for place, _ in places]))
    axis.set_minor_locator(NullLocator())
    axis.set_ticklabels([f"{hertz}" for _, hertz in places])


def _plot_error(axes: Axes, seconds: np.ndarray, shown: Reconstruction) -> None:
    """The squared error over time; where the score is another, what each frame contributes to it, too."""
    axes.set_title("error over time", loc="left")
    axes.plot(seconds, shown.squared_error, color=BLUE)
    axes.axhline(np.nanmean(shown.squared_error), color=BLUE, linewidth=0.6, linestyle="--")
    axes.set(xlabel="time (s)", xlim=(-0.5 / shown.frame_rate, seconds[-1] + 0.5 / shown.frame_rate), ylim=(0, None))
    axes.set_ylabel("squared error (dB²)", color=BLUE)
    axes.grid(alpha=0.3, linewidth=0.5)
    if shown.score_name != "MSE":
        other = axes.twinx()
        other.plot(seconds, shown.shares.sum(axis=1), color=VERMILLION, linewidth=0.9)
        other.set_ylabel(f"share of {shown.score_name} (%)", color=VERMILLION)


def _plot_bands(axes: Axes, shown: Reconstruction) -> None:
    """The share of each mel band in the score."""
    shares = shown.shares.sum(axis=0)
    numbers = np.arange(len(shares))
    largest = np.argsort(-shares)[:3]
    colors = np.where(np.isin(numbers, largest), VERMILLION, BLUE)
    axes.bar(numbers, shares, width=1.0, color=colors, linewidth=0)
    named = ", ".join(f"{shown.band_centers[band]:.0f} Hz {shares[band]:.0f} %" for band in largest)
    place = {"transform": axes.transAxes, "ha": "left", "va": "top"}
    axes.text(0.01, 0.97, f"largest: {named}", color=VERMILLION, fontsize="small", **place)
    axes.set_ylim(top=1.3 * max(shares.max(), 1e-9))  # room for that line
    axes.set_title(f"share of each mel band in {shown.score_name}", loc="left")
    axes.set(xlabel="frequency (Hz)", ylabel="share (%)", xlim=(-0.5, len(shares) - 0.5))
    axes.axhline(0, color="black", linewidth=0.6)
    axes.grid(axis="y", alpha=0.3, linewidth=0.5)
    axes.set_axisbelow(True)
    _set_hertz(axes.xaxis, shown.band_centers)


def plot_summary(path: Path, title: str, values: Sequence[tuple[str, str, str, float]]) -> None:
    """Bars of each metric by machine type and system, with the standard deviation over seeds.

    Args:
        values: system, metric, machine type or mean, and value (percent) of each seed. Without any, nothing is drawn.
    """
    import pandas
    import seaborn

    if not values:
        return
    with matplotlib.rc_context({"text.parse_math": False}):  # tags may hold dollar signs
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


def _save(figure: Figure, path: Path, dpi: int = 150) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=dpi)
