"""Anomaly score and decision of any wav files, with a trained model.

    python tools/score_clips.py recordings/today --dataset Workshoppump -d [--score MAHALA] [--csv today.csv]

--dataset, -d or -e, --seed, -tag and --use_ids name the model, as they do for train.py.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":  # found from any directory
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from config import BaselineError, Config, RunPaths, option_parser, parse_options, positive
from datasets.catalog import Machine, find_machine
from datasets.clips import Clip
from datasets.features import LogMels, check_length, count_frames, log_mel
from datasets.frames import Vectors
from datasets.recordings import Recording, find_recordings, open_recording
from files import write_csv
from networks.scores import find_score
from tools.console import log, open_console, run_command
from tools.model_files import load_model


def clip_vectors(recording: Recording, sampling_rate: int, config: Config) -> torch.Tensor:
    """The vectors (K, D) of a recording.

    Raises:
        BaselineError: it cannot be decoded, or is too short.
    """
    samples = recording.samples(sampling_rate)
    check_length(recording.path, count_frames(len(samples), config), config)
    frames = log_mel(samples, sampling_rate, config)  # (T, M)
    clip = Clip(recording.path, section="", is_target=False, is_anomaly=None, split=None)
    log_mels = LogMels(frames, np.array([len(frames)]), sampling_rate)
    return next(Vectors(log_mels, [clip], config.frames, config.frame_hop_length, torch.device("cpu")).of_each_clip())


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
    model_name = machine.model_name(machine.section_names(config.use_ids))
    paths_of_model = RunPaths(config, machine.dataset.name, machine.name, model_name)
    network, distribution, model_rate = load_model(config, machine, paths_of_model)
    score = find_score(config.score)(network.eval())
    threshold = None if distribution is None else distribution.threshold(config.decision_threshold)
    log.info("%s, decision threshold %s", config.score, "not known" if threshold is None else f"{threshold:.6g}")
    for path in paths:
        try:
            recording = open_recording(path, channel)
            rate = recording.header.sampling_rate
            if model_rate not in (None, rate):
                if not resample:
                    raise BaselineError(
                        f"{path}: {rate} Hz, but the model was trained at {model_rate} Hz. Say --resample."
                    )
                rate = model_rate
            with torch.no_grad():
                x = clip_vectors(recording, rate, config)  # (K, D)
                value = float(score(network(x) - x))
            if not math.isfinite(value):
                raise BaselineError(f"{path}: its score is not a finite number. Train the model again.")
            yield path, value, None if threshold is None else int(value > threshold)
        except BaselineError as error:
            yield path, error, None


def main(arguments: list[str] | None = None) -> bool:
    """Run the command; whether every clip has a score."""
    parser = option_parser("score_clips.py", "Scores any wav files with a trained model.")
    parser.add_argument("clips", nargs="+", metavar="CLIP", help="wav files, or folders of them with their subfolders")
    parser.add_argument("--csv", type=Path, default=None, help="write clip,score,decision to this file too")
    parser.add_argument(
        "--channel", type=positive, default=None, help="channel to take, from 1 (default: the only one)"
    )
    parser.add_argument(
        "--resample", action="store_true", default=False, help="take recordings of other sampling rates"
    )
    open_console()
    own, config = parse_options(parser, arguments)
    machine = find_machine(config.dataset, config.split)
    paths, _ = find_recordings(map(Path, own.clips))
    if not paths:
        raise BaselineError(f"{' '.join(own.clips)}: no .wav files there.")
    torch.set_num_threads(1)
    rows, failures = [], 0
    with threadpool_limits(1, user_api="blas"):  # the mel product rounds differently with another number of threads
        for path, value, decision in score_recordings(paths, config, machine, own.channel, own.resample):
            if isinstance(value, BaselineError):
                log.error("%s", value)
                failures += 1
                continue
            word = {0: "normal", 1: "anomaly", None: "-"}[decision]
            log.info("%12.6g  %-7s  %s", value, word, path)
            rows.append((path, value, "" if decision is None else decision))
    if own.csv is not None:
        write_csv(own.csv, [("clip", "score", "decision"), *rows])
    if failures:
        log.error("%d of %d clips have no score; the reasons are above.", failures, len(paths))
    return not failures


if __name__ == "__main__":
    sys.exit(run_command(main))
