"""Draw the README's diagram of the method: method-light.svg and method-dark.svg, beside this file.

    .venv/bin/python docs/images/draw_method.py

The waveform and the log-mel frames are those of a generated valve.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from config import FeatureConfig, load_config
from datasets.log_mel import log_mel
from tools.setup.demo_sounds import DEV_MACHINES, SAMPLE_RATE, DemoClip, synthesise

WIDTH, HEIGHT = 10.0, 2.5  # inches; the axes have the same units
THEMES = {  # text and lines, fill of boxes, accent
    "light": ("#1f2328", "#e8eef4", "#0072B2"),
    "dark": ("#e6edf3", "#263340", "#56B4E9"),
}
LAYERS = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640)  # widths of the autoencoder
MIDDLE = 1.27  # height of the row of arrows
CLIP = DemoClip("test", "source", "normal", 0, "01", "A")


def draw(path: Path, ink: str, fill: str, accent: str) -> None:
    """Draw the diagram in these colours on a transparent background."""
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.axis("off")

    def label(x: float, y: float, text: str, **options) -> None:
        axes.text(x, y, text, **{"color": ink, "ha": "center", "va": "center", "fontsize": 8.5, **options})

    def title(x: float, text: str) -> None:
        label(x, HEIGHT - 0.22, text, weight="bold")

    def caption(x: float, text: str) -> None:
        label(x, 0.48, text, va="top")

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": ink, "lw": 1.2})

    def box(x: float, y: float, width: float, height: float, text: str) -> None:
        shape = "round,pad=0,rounding_size=0.06"
        axes.add_patch(FancyBboxPatch((x, y), width, height, shape, facecolor=fill, edgecolor=ink, linewidth=0.8))
        label(x + width / 2, y + height / 2, text)

    samples = synthesise(np.random.default_rng(1), SAMPLE_RATE, DEV_MACHINES["valve"], CLIP).astype("f") / 2**15
    frames = log_mel(samples, SAMPLE_RATE, FeatureConfig(load_config(["--dataset", "DCASE2024T2valve", "-d"])))

    # --- Clip
    time = np.linspace(0.15, 1.25, len(samples))
    axes.plot(time[::8], MIDDLE + 0.5 * samples[::8] / np.abs(samples).max(), color=accent, linewidth=0.4)
    title(0.7, "clip")
    caption(0.7, "wav, 10 s\n16 kHz")
    arrow((1.35, MIDDLE), (1.65, MIDDLE))

    # --- Log-mel frames
    left, bottom, width, height = 1.75, MIDDLE - 0.62, 1.25, 1.24
    inset = figure.add_axes((left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT))
    inset.imshow(frames.T, origin="lower", aspect="auto", cmap="magma", interpolation="nearest")
    inset.axis("off")
    inset.add_patch(Rectangle((15.5, -0.5), 5, 128, fill=False, edgecolor="white", linewidth=1.5))  # a vector
    title(2.375, "log-mel frames")
    caption(2.375, "128 mel bands\nevery 32 ms")
    arrow((3.1, MIDDLE), (3.4, MIDDLE))

    # --- Vector and autoencoder
    step, unit = 0.235, 1.15 / max(LAYERS)
    first = 3.6
    for number, size in enumerate(LAYERS):
        x, tall = first + number * step, max(unit * size * (1 if size == 640 else 2), 0.1)
        color = accent if size in (8, 640) else fill
        axes.add_patch(Rectangle((x, MIDDLE - tall / 2), 0.11, tall, facecolor=color, edgecolor=ink, linewidth=0.8))
        label(x + 0.055, MIDDLE - tall / 2 - 0.1, str(size), fontsize=6.5)
    title(first + 5 * step + 0.055, "autoencoder")
    label(first + 0.055, MIDDLE + 0.7, "x")
    label(first + 10 * step + 0.055, MIDDLE + 0.7, "x̂")
    caption(first + 5 * step + 0.055, "x: 5 frames, 640 values\nx̂: their reconstruction")
    end = first + 10 * step + 0.11
    arrow((end + 0.1, MIDDLE), (end + 0.4, MIDDLE))

    # --- Scores, decision, files
    x = end + 0.45
    box(x, MIDDLE + 0.07, 1.6, 0.6, "MSE\nmean of (x̂ − x)²")
    box(x, MIDDLE - 0.67, 1.6, 0.6, "MAHALA\nMahalanobis distance")
    title(x + 0.8, "anomaly score")
    caption(x + 0.8, "one value per clip")
    arrow((x + 1.65, MIDDLE), (x + 1.95, MIDDLE))
    x += 2.0
    box(x, MIDDLE - 0.3, 1.05, 0.6, "score >\nthreshold?")
    title(x + 0.525, "decision")
    caption(x + 0.525, "scores and\ndecisions as CSV")

    with matplotlib.rc_context({"svg.hashsalt": "method"}):  # the same bytes each time
        figure.savefig(path, transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    for theme, colors in THEMES.items():
        draw(HERE / f"method-{theme}.svg", *colors)
