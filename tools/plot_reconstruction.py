"""Why a clip has its anomaly score: pictures of its log-mel frames, their reconstruction, and where the error is.

    python tools/plot_reconstruction.py CLIP ... [--score MAHALA] [--output picture.pdf]
    python tools/plot_reconstruction.py --dataset DCASE2024T2fan -d --ranked 2 [--score MAHALA]

The first form takes any clips. Where they lie in a dataset, their machine type is known by that; for others --dataset
and -d or -e name it. The second takes the clips of a machine type that have the highest and the lowest scores; where
labels are known, of the normal and of the anomalous ones each. --seed and -tag name the model, as they do for train.py.

P: frames of a vector, M: mel bands, D = P * M, K: vectors of a clip, T: frames of a clip.
"""

import argparse
import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # found from any directory
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while the imports take their time

from config import MODEL_KEYS, BaselineError, Config, UsageError, option_parser, parse_options
from datasets.catalog import Machine, find_machine, machine_of_path
from datasets.clips import RENAMED_DIRECTORY, SPLIT_DIRECTORIES, Clip, parse_clip
from datasets.log_mel import band_centers
from datasets.recordings import open_recording
from tools.results.runs import Run
from tools.results.score_files import SectionScores
from tools.score_clips import clip_vectors
from tools.training.console import add_channel_argument, log, open_console, run_command, whole_number
from tools.training.paths import RunPaths, run_paths

if TYPE_CHECKING:
    from tools.results.plots import Reconstruction
    from tools.training.model_files import TrainedModel

OPTIONS = (
    *("dataset", "dev", "eval", "use_ids", "model_name_suffix", "dataset_directory", "model_directory"),
    *("result_directory", "export_dir", "score", "seed", "decision_threshold", "calibration", *MODEL_KEYS),
)
TEST_DIRECTORIES = (*SPLIT_DIRECTORIES["test"], RENAMED_DIRECTORY)
FORMATS = (".png", ".pdf", ".svg")
SAME_SCORE = 1e-4  # relative difference of a score that was computed again, on a GPU say
LONGEST_NAME = 180  # bytes of a picture's name, for file systems take 255, and temporary names are longer


class Models:
    """The trained models of a machine type, each loaded once: of all its sections, or of each."""

    def __init__(self, config: Config, machine: Machine):
        self.config, self.machine = config, machine
        self._loaded: dict[Path, TrainedModel] = {}

    def paths(self, section: str) -> RunPaths:
        """The files of the model that scores clips of this section; any clips, where the machine type has no such one.

        Raises:
            BaselineError: it is not one of --use_ids.
        """
        sections = self.machine.section_names(self.config.use_ids)
        if section in self.machine.sections and section not in sections:
            raise BaselineError(f"section {section} is not one of --use_ids {' '.join(map(str, self.config.use_ids))}.")
        of_section = run_paths(self.config, self.machine, (section,))
        is_alone = not self.config.use_ids and section in self.machine.sections and of_section.model.exists()
        return of_section if is_alone else run_paths(self.config, self.machine, sections)

    def load(self, section: str) -> "TrainedModel":
        """The trained model of a section."""
        from tools.training.model_files import load_model

        paths = self.paths(section)
        if paths.model not in self._loaded:
            self._loaded[paths.model] = load_model(self.config, self.machine, paths)
            self._loaded[paths.model].network.eval()
        return self._loaded[paths.model]


def reconstruct(clip: Clip, channel: int | None, models: Models, others: SectionScores | None) -> "Reconstruction":
    """What the network makes of a clip, and how that makes its anomaly score, which is that of `train.py --test_only`.

    Args:
        channel: from 1; None: the only one.
        others: the section's scores, among which the clip has its rank; None: it has none.

    Raises:
        BaselineError: the clip cannot be read, or there is no model that goes with it.
    """
    import torch

    from datasets.frames import sum_by_frame
    from networks.scores import contributions, find_score
    from tools.results.plots import Reconstruction

    config, model = models.config, models.load(clip.section)
    recording = open_recording(clip.path, channel)
    rate, rate_of_model = recording.header.sampling_rate, model.sampling_rate
    if rate_of_model not in (None, rate):
        raise BaselineError(
            f"{clip.path}: {rate} Hz, but the model was trained at {rate_of_model} Hz. Resample the clip."
        )
    log_mels = recording.log_mels(rate, config)
    x = clip_vectors(log_mels, clip.path, config)  # (K, D)
    with torch.no_grad():
        reconstruction = model.network(x)
    residuals = reconstruction - x
    score = find_score(config.score)(model.network)

    def by_frame(values: torch.Tensor) -> torch.Tensor:  # (K, D) -> (T, M)
        return sum_by_frame(values, config.n_mels, len(log_mels.frames), config.frame_hop_length)

    counts = by_frame(torch.ones_like(x))  # vectors that a frame is in; of none the means are 0 / 0
    value = float(score(residuals))
    decision = "" if model.threshold is None else f", decision threshold {model.threshold:.4g}"
    return Reconstruction(
        title=f"{_folded(clip.name)}\n{config.score} {value:.5g}{decision}{_rank(clip, value, others)}",
        log_mel=log_mels.frames,
        reconstruction=(by_frame(reconstruction) / counts).numpy(),
        squared_error=(by_frame(residuals.square()) / counts).mean(dim=1).numpy(),
        contribution=by_frame(contributions(score, residuals)).numpy(),
        score_name=config.score,
        frame_rate=rate / config.hop_length,
        band_centers=band_centers(rate, config),
    )


def _folded(name: str, width: int = 55) -> str:
    """A clip's name in lines that a picture has room for."""
    return "\n".join(name[start : start + width] for start in range(0, len(name), width))


def ranked_clips(results: Sequence[SectionScores], number: int) -> list[Clip]:
    """Of each section and label the clips with the highest and those with the lowest scores, `number` of each."""
    chosen = {}
    for result in results:
        for label in dict.fromkeys(clip.is_anomaly for clip in result.clips):
            falling = [clip for clip in _by_rank(result) if clip.is_anomaly == label]
            chosen |= {clip.path: clip for clip in (*falling[:number], *falling[-number:])}
    return list(chosen.values())


def _by_rank(result: SectionScores) -> list[Clip]:
    """The clips of a section, the highest score first."""
    scored = zip(result.clips, result.scores, strict=True)
    return [clip for clip, _ in sorted(scored, key=lambda pair: -pair[1])]


def _rank(clip: Clip, value: float, others: SectionScores | None) -> str:
    """What to say of the rank of a clip; nothing where it is not known."""
    written = dict(zip((each.name for each in others.clips), others.scores, strict=True)) if others else {}
    if clip.name not in written:
        return ""
    if not math.isclose(value, written[clip.name], rel_tol=SAME_SCORE):
        log.warning(
            "%s: the last test gave %.5g, another model's score: no rank. Test again.", clip.name, written[clip.name]
        )
        return ""
    return f", rank {1 + [each.name for each in _by_rank(others)].index(clip.name)} of {len(written)}"


def _others(run: Run, machine: Machine, section: str) -> SectionScores | None:
    """The scores of a section's test clips; None where there are none."""
    try:
        return run.section(machine, section)
    except BaselineError as error:
        log.warning("the ranks are not known: %s", error)
        return None


def _clip_of(path: Path) -> Clip:
    """A clip of a dataset, or any other."""
    try:
        return parse_clip(path)
    except BaselineError:
        return Clip(path, section="", is_target=False, is_anomaly=None, split=None)


def _arguments_of_place(clips: Sequence[Path]) -> list[str]:
    """--dataset and -d or -e, as the clips' place says them, if it does."""
    machines = {(m.dataset.name + m.name, m.split): m for m in map(machine_of_path, clips) if m}
    if len(machines) > 1:
        raise UsageError(f"clips of several machine types: {', '.join(name for name, _ in machines)}. Take one by one.")
    return [argument for name, split in machines for argument in ("--dataset", name, f"-{split[0]}")]


def main(arguments: list[str] | None = None) -> bool:
    """Run the command; whether every picture could be drawn."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = option_parser("plot_reconstruction.py", "Draws why clips have their anomaly scores.", OPTIONS)
    parser.add_argument("clips", nargs="*", type=Path, default=[], metavar="CLIP", help="wav files")
    text = "in place of CLIP: so many clips with the highest and the lowest scores"
    parser.add_argument("--ranked", type=whole_number(1000), default=None, help=text)
    text = f"picture of a single clip, {', '.join(FORMATS)} (default: in the result directory)"
    parser.add_argument("--output", type=Path, default=None, help=text)
    add_channel_argument(parser)
    open_console()
    given = parser.parse_known_intermixed_args(arguments)[0]
    if bool(given.clips) == bool(given.ranked):
        raise UsageError("name either clips, or how many of the best and the worst: --ranked 2. See --help.")
    for path in given.clips:
        if not path.exists():
            raise UsageError(f"{path}: no such file.")
    if not hasattr(given, "dataset"):
        arguments = [*_arguments_of_place(given.clips), *arguments]
    options, config = parse_options(parser, arguments)
    if options.output and (len(options.clips) != 1 or options.output.suffix.lower() not in FORMATS):
        raise UsageError(
            f"--output {options.output}: it names the picture of one clip, and ends in {' or '.join(FORMATS)}."
        )

    from networks.scores import find_score

    find_score(config.score)  # an unknown name ends the run before any work
    machine = find_machine(config.dataset, config.split)
    run = Run(config, machine.dataset)
    clips = _clips_to_draw(options, run, machine)
    machines = {clip.path: machine_of_path(clip.path) for clip in clips}  # by their place
    tested = [clip.path for clip in clips if machines[clip.path] == machine and _folder(clip) in TEST_DIRECTORIES]
    pictures = [options.output or _picture(clip, clip.path in tested, run.paths(machine)) for clip in clips]
    for clip, picture in zip(clips, pictures, strict=True):
        if pictures.count(picture) > 1:
            raise UsageError(f"{clip.path}: another clip's picture would have the same name. Draw it with --output.")
    others = {s: _others(run, machine, s) for s in sorted({clip.section for clip in clips if clip.path in tested})}
    models, errors = Models(config, machine), {}
    for clip, picture in zip(clips, pictures, strict=True):
        # Of the two channels of a dataset's clips the baseline takes the first; of others it cannot be known.
        channel = 1 if options.channel is None and machines[clip.path] else options.channel
        try:
            _draw(clip, channel, models, others[clip.section] if clip.path in tested else None, picture)
        except BaselineError as error:
            errors[str(error)] = error  # one that all clips meet, such as a missing model, is said once
    for text in errors:
        log.error("%s", text)
    return not errors


def _clips_to_draw(options: argparse.Namespace, run: Run, machine: Machine) -> list[Clip]:
    if options.clips:
        return [_clip_of(path) for path in options.clips]
    sections = machine.section_names(run.config.use_ids)
    results = [result for section in sections if (result := run.section(machine, section))]
    if not results:
        where, tests = run.paths(machine).result_dir, machine.dataset.script("02a_test", machine.split)
        raise BaselineError(f"{where}: no anomaly scores of {machine.name} there. Run {tests} first.")
    return ranked_clips(results, options.ranked)


def _picture(clip: Clip, is_tested: bool, paths: RunPaths) -> Path:
    """Where the picture of a clip goes: of others than the machine type's test clips, to a place of its own."""
    name = f"{clip.path.stem.encode()[:LONGEST_NAME].decode(errors='ignore')}.png"
    return paths.reconstruction_dir / (name if is_tested else f"others/{_folder(clip)}_{name}")


def _folder(clip: Clip) -> str:
    return clip.path.absolute().parent.name


def _draw(clip: Clip, channel: int | None, models: Models, others: SectionScores | None, picture: Path) -> None:
    from tools.results.plots import plot_reconstruction

    shown = reconstruct(clip, channel, models, others)
    plot_reconstruction(picture, shown)
    log.info("%s -> %s", shown.title.splitlines()[-1], picture)


if __name__ == "__main__":
    sys.exit(run_command(main))
