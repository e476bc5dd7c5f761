"""Anomaly score and decision of any wav files, with a trained model.

    python tools/score_clips.py recordings/today --dataset WorkshopPump -d [--score MAHALA] [--csv today.csv]

--dataset, -d or -e, --seed, -tag and --use_ids name the model, as they do for train.py. It is run on the CPU.
"""

import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # found from any directory
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while the imports take their time

from config import MODEL_KEYS, BaselineError, Config, UsageError, option_parser, parse_options
from datasets.catalog import Machine, find_machine
from datasets.clips import Clip
from datasets.feature_cache import LogMels
from datasets.recordings import find_recordings, open_recording
from files import make_writable_directory, write_csv
from tools.training.console import add_channel_argument, log, open_console, run_command
from tools.training.paths import run_paths

if TYPE_CHECKING:
    import torch

OPTIONS = (
    *("dataset", "dev", "eval", "use_ids", "model_name_suffix", "model_directory", "export_dir", "score", "seed"),
    *("decision_threshold", "calibration", *MODEL_KEYS),
)


def score_recordings(
    paths: list[Path], config: Config, machine: Machine, channel: int | None, resample: bool
) -> Iterator[tuple[Path, float | BaselineError, int | None]]:
    """Score each recording, as `train.py --test_only` would.

    Args:
        channel: which channel of the recordings, from 1; None: the only one.
        resample: whether to take recordings of another sampling rate than the model's.

    Yields:
        Path; anomaly score, or the reason why there is none; decision (1: anomalous), or None where the model has no
        decision threshold.

    Raises:
        BaselineError: there is no such model.
    """
    import torch

    from networks.scores import find_score, residual
    from tools.training.model_files import load_model

    paths_of_model = run_paths(config, machine, machine.section_names(config.use_ids))
    model = load_model(config, machine, paths_of_model)
    network, threshold, model_rate = model.network.eval(), model.threshold, model.sampling_rate
    score = find_score(config.score)(network)
    log.info("%s, decision threshold %s", config.score, "not known" if threshold is None else f"{threshold:.6g}")
    torch.set_num_threads(1)
    for path in paths:
        try:
            recording = open_recording(path, channel)
            rate = model_rate if resample and model_rate else recording.header.sampling_rate
            if model_rate not in (None, rate):
                raise BaselineError(f"{path}: {rate} Hz, but the model was trained at {model_rate} Hz. Say --resample.")
            with torch.no_grad():
                vectors = clip_vectors(recording.log_mels(rate, config), path, config)
                value = float(score(residual(network, vectors)))
            if not math.isfinite(value):
                raise BaselineError(f"{path}: its score is not a finite number. Train the model again.")
            yield path, value, None if threshold is None else int(value > threshold)
        except BaselineError as error:
            yield path, error, None


def clip_vectors(log_mels: LogMels, path: Path, config: Config) -> "torch.Tensor":
    """The vectors of a single clip: (K, D)."""
    import torch

    from datasets.frames import Vectors

    clip = Clip(path, section="", is_target=False, is_anomaly=None, split=None)
    return next(Vectors(log_mels, [clip], config.frames, config.frame_hop_length, torch.device("cpu")).per_clip())


def main(arguments: list[str] | None = None) -> bool:
    """Run the command; whether every clip has a score."""
    parser = option_parser("score_clips.py", "Scores any wav files with a trained model.", OPTIONS)
    parser.add_argument("clips", nargs="+", metavar="CLIP", help="wav files, or folders of them with their subfolders")
    parser.add_argument("--csv", type=Path, default=None, help="write clip,score,decision to this file too")
    parser.add_argument("--resample", action="store_true", default=False, help="take other sampling rates, too")
    add_channel_argument(parser)
    open_console()
    options, config = parse_options(parser, arguments)
    machine = find_machine(config.dataset, config.split)
    if options.csv is not None:
        if options.csv.is_dir():
            raise UsageError(f"--csv {options.csv}: a directory. Name a file.")
        make_writable_directory(options.csv.parent)
    paths, _ = find_recordings(map(Path, options.clips))
    if not paths:
        raise BaselineError(f"{' '.join(options.clips)}: no .wav files there.")
    rows, failures = [], 0
    for path, value, decision in score_recordings(paths, config, machine, options.channel, options.resample):
        if isinstance(value, BaselineError):
            log.error("%s", value)
            failures += 1
            continue
        log.info("%12.6g  %-7s  %s", value, {0: "normal", 1: "anomaly", None: "-"}[decision], path)
        rows.append((path, value, "" if decision is None else decision))
    if options.csv is not None:
        write_csv(options.csv, [("clip", "score", "decision"), *rows])
    if failures:
        log.error("%d of %d clips have no score; the reasons are above.", failures, len(paths))
    return not failures


if __name__ == "__main__":
    sys.exit(run_command(main))
