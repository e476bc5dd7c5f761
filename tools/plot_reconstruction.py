"""Plot why a clip has its anomaly score: its log-mel frames, their reconstruction, and where the error is.

    python tools/plot_reconstruction.py CLIP ... [--score MAHALA] [--output plot.pdf]
    python tools/plot_reconstruction.py --dataset DCASE2024T2fan -d --ranked 2 [--score MAHALA]

The first form plots any clips. The path of a clip in a dataset gives its machine type. For other clips, add --dataset
and -d or -e. The second form plots the clips of a machine type with the highest and the lowest scores, for each label
if labels are known. --seed and -tag select the model, as for train.py.

P: frames per vector, M: mel bands, D = P * M, K: vectors of a clip, T: frames per clip.
"""

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # imports work from any directory
    from startup import prepare

    prepare()

from config import MODEL_KEYS, BaselineError, Config, UsageError, number, option_parser, parse_options
from datasets.catalog import Machine, find_machine, machine_of_path
from datasets.clips import RENAMED_DIRECTORY, SPLIT_DIRECTORIES, Clip, parse_clip
from datasets.log_mel import band_centers
from files import check_replaceable
from portable import start_portable
from tools.results.runs import Run
from tools.results.score_files import SectionScores
from tools.score_clips import clip_vectors
from tools.training.console import add_channel_argument, log, run_command
from tools.training.paths import RunPaths, run_paths

if TYPE_CHECKING:
    from tools.results.plots import Reconstruction
    from tools.training.trained_model import TrainedModel

OPTIONS = (
    *("dataset", "dev", "eval", "use_ids", "model_name_suffix", "dataset_directory", "model_directory"),
    *("result_directory", "export_dir", "score", "seed", "decision_threshold", "calibration", *MODEL_KEYS),
)
TEST_DIRECTORIES = (*SPLIT_DIRECTORIES["test"], RENAMED_DIRECTORY)
FORMATS = (".png", ".pdf", ".svg")
SAME_SCORE = 1e-4  # relative tolerance for a score that is computed again, for example after a test on a GPU


def reconstruct(
    clip: Clip, channel: int | None, config: Config, model: "TrainedModel", tested: SectionScores | None
) -> "Reconstruction":
    """The reconstruction of a clip, and its anomaly score, as in `train.py --test_only`.

    Args:
        channel: number of the channel, from 1; None if there is only one.
        tested: scores of the section's test clips, for the rank of the clip; or None.

    Raises:
        BaselineError: the clip cannot be read, or has a different sampling rate than the model's clips.
    """
    import torch

    from datasets.frames import sum_by_frame
    from networks.scores import contributions, find_score
    from tools.results.plots import Reconstruction

    network = model.network.eval()
    log_mels, x = clip_vectors(clip.path, channel, config, model.sampling_rate)  # (T, M), (K, D)
    with torch.no_grad():
        reconstruction = network(x)
    residuals = reconstruction - x
    score = find_score(config.score)(network)
    value = float(score(residuals))

    def by_frame(values: torch.Tensor) -> torch.Tensor:  # (K, D) -> (T, M)
        return sum_by_frame(values, config.n_mels, len(log_mels.frames), config.frame_hop_length)

    counts = by_frame(torch.ones_like(x))  # number of vectors with this frame; 0 / 0 is nan
    # Lines as wide as the plot, broken after an underscore if there is one.
    name = "\n".join(re.findall(r".{1,55}_|.{1,55}", clip.name, re.DOTALL) if len(clip.name) > 55 else [clip.name])
    decision = "" if model.threshold is None else f", decision threshold {model.threshold:.4g}"
    return Reconstruction(
        title=f"{name}\n{config.score} {value:.5g}{decision}{_rank(clip, value, tested)}",
        log_mel=log_mels.frames,
        reconstruction=(by_frame(reconstruction) / counts).numpy(),
        squared_error=(by_frame(residuals.square()) / counts).mean(dim=1).numpy(),
        contribution=by_frame(contributions(score, residuals)).numpy(),
        score_name=config.score,
        frame_rate=log_mels.sampling_rate / config.hop_length,
        band_centers=band_centers(log_mels.sampling_rate, config),
    )


def _rank(clip: Clip, value: float, tested: SectionScores | None) -> str:
    """The rank of a clip among the test clips, for the title. Empty if it is unknown."""
    scores = {c.name: score for c, score in zip(tested.clips, tested.scores, strict=True)} if tested else {}
    if clip.name not in scores:
        return ""
    last = scores[clip.name]
    if not math.isclose(value, last, rel_tol=SAME_SCORE):
        log.warning("%s: no rank, because the last test gave %.5g with another model. Test again.", clip.name, last)
        return ""
    return f", rank {1 + sum(score > last for score in scores.values())} of {len(scores)}"


def _tested(run: Run, machine: Machine, clip: Clip) -> SectionScores | None:
    try:
        return run.section(machine, clip.section)
    except BaselineError as error:
        log.warning("%s: no rank: %s", clip.name, error)
        return None


def model_paths(config: Config, machine: Machine, section: str) -> RunPaths:
    """The files of the model that scores clips of this section: its own model, or the one of all sections.

    Raises:
        BaselineError: the section is not one of --use_ids.
    """
    sections = machine.section_names(config.use_ids)
    if section in machine.sections and section not in sections:
        raise BaselineError(f"section {section} is not one of --use_ids {' '.join(map(str, config.use_ids))}.")
    own = run_paths(config, machine, (section,))
    return own if not config.use_ids and own.model.exists() else run_paths(config, machine, sections)


def ranked_clips(run: Run, machine: Machine, number: int) -> list[Clip]:
    """The `number` clips with the highest and with the lowest scores, for each tested section and label.

    Raises:
        BaselineError: no section was tested.
    """
    chosen: list[Clip] = []
    for section in machine.section_names(run.config.use_ids):
        if (result := run.section(machine, section)) is None:
            continue
        scored = sorted(zip(result.scores, result.clips, strict=True), key=lambda pair: -pair[0])
        for label in dict.fromkeys(clip.is_anomaly for clip in result.clips):
            clips = [clip for _, clip in scored if clip.is_anomaly == label]
            chosen += [*clips[:number], *clips[-number:]]
    if not chosen:
        where, tests = run.paths(machine).result_dir, machine.dataset.script("02a_test", machine.split)
        raise BaselineError(f"{where}: no anomaly scores of {machine.name} found. Run {tests} first.")
    return list(dict.fromkeys(chosen))


def _parse_any_clip(path: Path) -> Clip:
    try:
        return parse_clip(path)
    except BaselineError:  # not a clip of a dataset
        return Clip(path, section="", is_target=False, is_anomaly=None, split=None)


def _dataset_options(clips: Sequence[Path]) -> list[str]:
    """--dataset and -d or -e, if the clips are in a dataset."""
    machines = {(m.dataset.name + m.name, m.split) for m in map(machine_of_path, clips) if m}
    if len(machines) > 1:
        names = ", ".join(sorted(name for name, _ in machines))
        raise UsageError(f"clips of several machine types: {names}. Plot one machine type at a time.")
    return [option for name, split in machines for option in ("--dataset", name, f"-{split[0]}")]


def main(arguments: list[str] | None = None) -> bool:
    """Run the command. Returns whether every clip was plotted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    text = "Plots why clips have their anomaly scores: log-mel frames, reconstruction, error."
    parser = option_parser("plot_reconstruction.py", text, OPTIONS)
    parser.add_argument("clips", nargs="*", type=Path, default=[], metavar="CLIP", help="wav files")
    text = "instead of CLIP: plot the N clips with the highest and the N with the lowest scores"
    parser.add_argument("--ranked", metavar="N", type=number(int, at_least=1, at_most=1000), default=None, help=text)
    text = f"file for the plot of a single clip, {', '.join(FORMATS)} (default: in the result directory)"
    parser.add_argument("--output", type=Path, default=None, help=text)
    add_channel_argument(parser)
    given, unknown = parser.parse_known_intermixed_args(arguments)
    if bool(given.clips) == bool(given.ranked) and not unknown:  # parse_options names an unknown option
        raise UsageError("give either CLIP or --ranked, such as --ranked 2. See --help.")
    if not hasattr(given, "dataset"):
        arguments = [*_dataset_options(given.clips), *arguments]
    options, config = parse_options(parser, arguments)
    start_portable(config)
    if options.output and (len(options.clips) != 1 or options.output.suffix.lower() not in FORMATS):
        raise UsageError(f"--output {options.output}: needs one clip, and a name that ends in {' or '.join(FORMATS)}.")

    from networks.scores import find_score
    from tools.results.plots import is_plot, plot_reconstruction
    from tools.training.trained_model import load_model

    if options.output:
        check_replaceable(options.output, is_plot)
    find_score(config.score)  # an unknown name is an error before any work
    machine = find_machine(config.dataset, config.split, config.dataset_directory)
    run = Run(config, machine.dataset)
    clips = list(map(_parse_any_clip, options.clips)) or ranked_clips(run, machine, options.ranked)
    sections = {clip.section for clip in clips}
    models = {section: load_model(config, machine, model_paths(config, machine, section)) for section in sections}
    plotted: set[Path] = set()
    for clip in clips:
        folder, dataset_machine = clip.path.absolute().parent.name, machine_of_path(clip.path)
        is_tested = dataset_machine == machine and folder in TEST_DIRECTORIES
        name = f"{clip.path.stem}.png" if is_tested else f"others/{folder}_{clip.path.stem}.png"
        path = options.output or run.paths(machine).reconstruction_dir / name
        # The baseline uses the first channel of a dataset's stereo clips. For other clips, the user must choose.
        channel = 1 if options.channel is None and dataset_machine else options.channel
        try:
            if path in plotted:
                raise BaselineError(f"{clip.path}: the plot of another clip has the same name. Use --output.")
            tested = _tested(run, machine, clip) if is_tested else None
            reconstruction = reconstruct(clip, channel, config, models[clip.section], tested)
            plot_reconstruction(path, reconstruction)
            log.info("%s -> %s", reconstruction.title.splitlines()[-1], path)
            plotted.add(path)
        except BaselineError as error:
            log.error("%s", error)
    return len(plotted) == len(clips)


if __name__ == "__main__":
    sys.exit(run_command(main))
