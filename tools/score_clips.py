"""Compute anomaly scores and decisions for any wav or FLAC files with a trained model.

    python tools/score_clips.py recordings/today --dataset WorkshopPump -d [--score MAHALA] [--csv today.csv]

--dataset, -d or -e, --seed, -tag and --use_ids select the model, as for train.py. It runs on the CPU.
"""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # imports work from any directory
    from startup import prepare

    prepare()

from config import MODEL_KEYS, BaselineError, Config, UsageError, available_memory, option_parser, parse_options
from datasets.audio import enough_memory
from datasets.catalog import find_machine
from datasets.clips import Clip
from datasets.feature_cache import LogMels
from datasets.recordings import Recording, find_recordings, open_recording
from files import check_replaceable, csv_text, make_writable_directory, write_csv
from portable import start_portable
from tools.training.console import add_channel_argument, log, run_command
from tools.training.paths import run_paths

if TYPE_CHECKING:
    import torch

OPTIONS = (
    *("dataset", "dev", "eval", "use_ids", "model_name_suffix", "dataset_directory", "model_directory", "export_dir"),
    *("score", "seed", "decision_threshold", "calibration", *MODEL_KEYS),
)
COLUMNS = ("clip", "score", "decision")  # of the CSV


def clip_vectors(
    path: Path, channel: int | None, config: Config, model_rate: int | None, resample: bool = False
) -> "tuple[LogMels, torch.Tensor]":
    """The log-mel frames (T, M) of a wav or FLAC file, and their vectors (K, D).

    Args:
        channel: number of the channel, from 1; None if there is only one.
        model_rate: sampling rate (Hz) of the model's clips, if it is known.
        resample: whether to resample a clip with a different rate.

    Raises:
        BaselineError: the file cannot be read, is too short or too long, or has a different sampling rate.
    """
    import torch

    from datasets.frames import Vectors

    recording = open_recording(path, channel)
    rate = recording.header.sampling_rate
    if model_rate not in (None, rate) and not resample:
        advice = "Resample it, or use --resample of score_clips.py."
        raise BaselineError(f"{path}: {rate} Hz, but the model was trained at {model_rate} Hz. {advice}")
    # Without enough memory, the system would kill the process, and the other clips would get no scores.
    if bytes_to_score(recording, model_rate or rate, config) > available_memory():
        raise BaselineError(f"{path}: too long to fit in memory. Shorten it, or leave it out.")
    log_mels = recording.log_mels(model_rate or rate, config)
    clip = Clip(path, section="", is_target=False, is_anomaly=None, split=None)
    vectors = Vectors(log_mels, [clip], config.frames, config.frame_hop_length, torch.device("cpu"))
    return log_mels, next(vectors.per_clip())


def bytes_to_score(recording: Recording, sampling_rate: int, config: Config) -> float:
    """The approximate memory for a score: samples, and either the spectrogram or the vectors and their residuals."""
    header = recording.header
    n_frames = header.samples * sampling_rate / header.sampling_rate / config.hop_length
    bytes_per_frame = max(4 * config.hop_length + 6 * config.n_fft, 16 * config.frames * config.n_mels)
    return 4 * header.samples * header.channels + n_frames * bytes_per_frame


def _is_score_file(path: Path) -> bool:
    heading = csv_text([COLUMNS]).encode()
    with path.open("rb") as file:
        return file.read(len(heading)) == heading


def main(arguments: list[str] | None = None) -> bool:
    """Run the command. Returns whether every clip has a score."""
    parser = option_parser("score_clips.py", "Scores any wav or FLAC files with a trained model.", OPTIONS)
    parser.add_argument(
        "clips", nargs="+", metavar="CLIP", help="wav or FLAC files, or folders (subfolders are searched, too)"
    )
    parser.add_argument("--csv", type=Path, default=None, help="also write clip,score,decision to this file")
    parser.add_argument(
        "--resample", action="store_true", default=False, help="resample clips with a different sampling rate"
    )
    add_channel_argument(parser)
    options, config = parse_options(parser, arguments)
    start_portable(config)
    machine = find_machine(config.dataset, config.split, config.dataset_directory)
    if options.csv:
        if options.csv.is_dir():
            raise UsageError(f"--csv {options.csv}: this is a directory. Give a file.")
        check_replaceable(options.csv, _is_score_file)
        make_writable_directory(options.csv.parent)
    paths, _ = find_recordings(map(Path, options.clips))
    if not paths:
        raise BaselineError(f"{' '.join(options.clips)}: no .wav or .flac files found.")

    import torch

    from networks import residual
    from networks.scores import find_score
    from tools.training.trained_model import load_model

    model = load_model(config, machine, run_paths(config, machine, machine.section_names(config.use_ids)))
    network, threshold = model.network.eval(), model.threshold
    score = find_score(config.score)(network)
    log.info("%s, decision threshold %s", config.score, "unknown" if threshold is None else f"{threshold:.6g}")
    torch.set_num_threads(1)
    rows = []
    for path in paths:
        try:
            with enough_memory(path), torch.no_grad():
                _, vectors = clip_vectors(path, options.channel, config, model.sampling_rate, options.resample)
                value = float(score(residual(network, vectors)))
            if not math.isfinite(value):
                raise BaselineError(f"{path}: its score is not a finite number. Train the model again.")
        except BaselineError as error:
            log.error("%s", error)
            continue
        decision = "" if threshold is None else int(value > threshold)
        log.info("%12.6g  %-7s  %s", value, {0: "normal", 1: "anomaly", "": "-"}[decision], path)
        rows.append((path, value, decision))
    if options.csv:
        write_csv(options.csv, [COLUMNS, *rows])
    if len(rows) < len(paths):
        log.error("%d of %d clips have no score. The reasons are above.", len(paths) - len(rows), len(paths))
    return len(rows) == len(paths)


if __name__ == "__main__":
    sys.exit(run_command(main))
