"""Train an autoencoder on the normal clips of one machine type, then score its test clips.

    python train.py --dataset DCASE2024T2fan -d                                  train, then test
    python train.py --dataset DCASE2024T2fan -d --test_only --score MAHALA       test with another score

This file contains the whole method, from top to bottom.

Source: N. Harada et al., "First-shot anomaly sound detection for machine condition monitoring: A domain
generalization baseline", EUSIPCO 2023, https://arxiv.org/abs/2303.00455.

P: frames per vector, M: mel bands, D = P·M: values per vector, K: vectors per clip, B: vectors per batch.

PyTorch takes seconds to import, so it is imported inside functions. --help and option errors then appear at once.
"""

from __future__ import annotations

import logging
import math
import os
import shlex
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from startup import prepare

    prepare()

from tqdm import tqdm

from config import BaselineError, Config, load_config
from datasets.catalog import Machine, find_machine
from datasets.clips import find_clips
from files import make_writable_directory, process_lock
from portable import start_portable
from tools.training.console import (
    TrainingProgress,
    how_to_resume,
    import_libraries,
    open_console,
    open_log_file,
    run_command,
    shown,
)
from tools.training.paths import RunPaths, run_paths

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from networks.scores import Score

LOG_COLUMNS = ("loss", "val_loss", "recon_loss", "recon_loss_source", "recon_loss_target")

log = logging.getLogger("baseline")


def train(config: Config, machine: Machine, paths: RunPaths, device: torch.device, skip_if_trained: bool) -> None:
    """Train on the normal clips, and write the model, its score distributions, log.csv and config.yaml.

    Args:
        skip_if_trained: return at once if this training is already finished.

    Raises:
        BaselineError: a problem that the user can fix.
    """
    import torch  # noqa: F401, for torch.optim

    from datasets.feature_cache import load_log_mels
    from datasets.frames import Vectors, draw_batches, split_vectors
    from networks import make_network, residual
    from networks.scores import SCORES, ResidualCovariances
    from networks.threshold import fit_gammas
    from tools.results.draw import save_plot
    from tools.training.adam import Adam
    from tools.training.checkpoint import TrainingState
    from tools.training.device import device_name
    from tools.training.fast_step import fastest_form
    from tools.training.generators import seed_generators
    from tools.training.identity import training_identity
    from tools.training.model_files import is_trained, save_model

    started = time.monotonic()

    # --- Data: the vectors of all training clips
    clips = find_clips(machine, config.dataset_directory, "train", machine.section_names(config.use_ids))
    log_mels = load_log_mels(clips, config, machine.channels(config), machine.cache_directory(config))
    vectors = Vectors(log_mels, clips, config.frames, config.frame_hop_length, device)
    where = device_name(device)
    log.info("%d training clips, %d vectors of %d values, on %s", len(clips), len(vectors), vectors.dimension, where)
    identity = training_identity(config, clips, log_mels, train)
    if skip_if_trained and is_trained(paths, identity):
        log.info("already trained, %d epochs -> %s", config.epochs, shown(paths.model_dir))
        return

    # --- Split and network: random numbers are drawn in the same order as in the published baseline
    seed_generators(config.seed)
    train_index, valid_index = (index.to(device) for index in split_vectors(len(vectors), config.validation_split))
    if config.batch_size > len(train_index):
        raise BaselineError(
            f"--batch_size {config.batch_size} is larger than the {len(train_index)} training vectors of "
            f"{machine.name}. Use a smaller batch size, or add clips."
        )
    network = make_network(config.model, vectors.dimension, config.n_mels).to(device)
    optimizer = Adam(network.parameters(), config.learning_rate, config.portable)  # or an optimizer of torch.optim
    state = TrainingState(network, optimizer, identity, device)
    state.start(config, paths)

    # --- Training
    # training_step is defined below. Unless you edit it, a faster version with the same results runs instead.
    step = fastest_form(training_step, network, optimizer, vectors[train_index[: config.batch_size]])
    n_batches = math.ceil(len(train_index) / config.batch_size)  # also counts a skipped batch of one vector
    with TrainingProgress(config.epochs, n_batches, state.epoch, config.log_interval) as progress:
        for epoch in range(state.epoch + 1, config.epochs + 1):
            network.train()
            losses, is_target = [], []
            for batch in draw_batches(train_index, config.batch_size, config.shuffle):
                if len(batch) == 1:  # batch normalisation needs at least two
                    continue
                losses.append(step(vectors[batch]))  # (B, D) -> (B,)
                is_target.append(vectors.is_target[batch])  # (B,)
                progress.finish_batch(losses[-1])

            network.eval()
            valid_batches = draw_batches(valid_index, config.batch_size, shuffle=False)
            valid_losses = [residual(network, vectors[batch]).square().mean() for batch in valid_batches]

            train_losses, source_losses, target_losses = batch_means(losses, is_target)
            valid_losses = [float(loss) for loss in valid_losses]
            loss = sum(train_losses) / n_batches
            valid_loss = sum(valid_losses) / len(valid_losses)
            row = [loss, valid_loss, loss, sum(source_losses) / n_batches, sum(target_losses) / n_batches]
            state.finish_epoch(row, train_losses + valid_losses)
            state.save(paths.checkpoint)
            progress.finish_epoch(epoch, loss, valid_loss)

    # --- Residual covariances of the source and target domains, for the Mahalanobis distance
    log.debug("computing covariances and score distributions")
    network.eval()
    covariances = ResidualCovariances(config.n_mels, device)
    for batch in draw_batches(train_index, config.batch_size, config.shuffle):
        if len(batch) > 1:
            covariances.add(residual(network, vectors[batch]), vectors.is_target[batch])
    network.cov_source.data, network.cov_target.data = covariances.source_and_target()

    # --- Gamma distributions of normal scores, for the threshold: one score per batch (as published) or per clip
    scores = {name: make_score(network) for name, make_score in SCORES.items()}
    batches = draw_batches(train_index, config.batch_size, config.shuffle)
    batches += draw_batches(valid_index, config.batch_size, shuffle=False)
    batch_scores = normal_scores(network, scores, (vectors[batch] for batch in batches))
    batch_scores["MSE"] = state.batch_losses  # of the last epoch, as published
    clip_scores = normal_scores(network, scores, vectors.per_clip())
    distributions = {"batch": fit_gammas(batch_scores, "batch"), "clip": fit_gammas(clip_scores, "clip")}

    log.debug("writing the model")
    epoch_losses, epoch_valid_losses = list(zip(*state.history, strict=True))[:2]
    save_plot("plot_losses", paths.loss_plot, paths.model_name, epoch_losses, epoch_valid_losses)
    rows = [LOG_COLUMNS, *state.history]
    save_model(config, paths, network, distributions, rows, identity, log_mels.sampling_rate, device)
    seconds = time.monotonic() - started
    result = f"loss {epoch_losses[-1]:.2f} (validation: {epoch_valid_losses[-1]:.2f})"
    log.info("trained %d epochs in %.0f s on %s, %s -> %s", state.epoch, seconds, where, result, shown(paths.model_dir))


def training_step(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> Tensor:
    """Train on one batch of vectors: (B, D) → loss of each vector, (B,).

    You can edit this function. If you do not, a faster version with the same results runs instead; see fastest_form.
    """
    loss = (network(x) - x).square().mean(dim=1)  # (B, D) -> (B,)
    optimizer.zero_grad()
    loss.mean().backward()
    optimizer.step()
    return loss.detach()


def batch_means(losses: list[Tensor], is_target: list[Tensor]) -> tuple[list[float], list[float], list[float]]:
    """The mean loss of each batch, over all vectors, source vectors and target vectors (0 if there are none).

    Args:
        losses, is_target: one tensor (B,) per batch.
    """
    import torch

    sizes = [len(batch) for batch in losses]
    all_losses, all_is_target = torch.cat(losses).cpu(), torch.cat(is_target).cpu()  # a single copy from the GPU
    means = []
    for loss, target in zip(all_losses.split(sizes), all_is_target.split(sizes), strict=True):
        parts = loss, loss[~target], loss[target]
        means.append([float(part.mean()) if len(part) else 0.0 for part in parts])
    all_means, source_means, target_means = map(list, zip(*means, strict=True))
    return all_means, source_means, target_means


def normal_scores(network: nn.Module, scores: dict[str, Score], parts: Iterable[Tensor]) -> dict[str, list[float]]:
    """Score name → anomaly score of each part of the normal vectors, (K, D), as if it were a clip."""
    from networks import residual

    values = {name: [] for name in scores}
    for x in parts:
        residuals = residual(network, x)  # (K, D)
        for name, score in scores.items():
            # Convert to float at once: small tensors left between large freed ones would block 350 MB from reuse.
            values[name].append(float(score(residuals)))
    return values


def test(config: Config, machine: Machine, paths: RunPaths, device: torch.device) -> None:
    """Score the test clips with the trained model, and write scores, decisions and, if labels are known, metrics.

    Raises:
        BaselineError: a problem that the user can fix.
    """
    from datasets.feature_cache import load_log_mels
    from datasets.frames import Vectors
    from networks import residual
    from networks.scores import find_score
    from tools.results.machine_results import write_results
    from tools.results.test_records import make_test_record
    from tools.training.device import device_name
    from tools.training.trained_model import check_clips, load_model

    model = load_model(config, machine, paths)
    network = model.network.to(device).eval()
    score = find_score(config.score)(network)

    clips = find_clips(machine, config.dataset_directory, "test", machine.section_names(config.use_ids))
    log_mels = load_log_mels(clips, config, machine.channels(config), machine.cache_directory(config))
    check_clips(model, clips, log_mels)
    record = make_test_record(config, clips, log_mels, model, test)
    vectors = Vectors(log_mels, clips, config.frames, config.frame_hop_length, device)
    log.info("%d test clips, on %s", len(clips), device_name(device))
    scores = []
    for x in tqdm(vectors.per_clip(), desc="test", unit="clip", total=len(clips), disable=None, leave=False):
        scores.append(float(score(residual(network, x))))  # (K, D) -> one score
    decisions = None if model.threshold is None else [int(value > model.threshold) for value in scores]
    write_results(machine, paths, clips, scores, decisions, record)


def run(config: Config, machine: Machine) -> None:
    """Train, test or both, as configured.

    Raises:
        BaselineError: a problem that the user can fix.
    """
    start_portable(config)
    import_libraries("torch", "scipy.stats", "sklearn.metrics")
    from networks import find_network
    from networks.scores import find_score
    from tools.training.device import choose_device
    from tools.training.identity import remember_code

    remember_code(train, test)
    paths = run_paths(config, machine, machine.section_names(config.use_ids))
    steps = {"train": not config.test_only, "test": not config.train_only}
    open_console(os.environ.get("NAME_IN_LOOP", paths.model_name))
    find_network(config.model)  # check the names before any work
    find_score(config.score)
    if steps["test"]:
        make_writable_directory(paths.result_dir)  # fail before the training, not after it
    open_log_file(paths.run_log)
    device = choose_device(config)
    log.debug("train.py %s", shlex.join(sys.argv[1:]))
    log.debug("%s on %s", config, device)
    if config.is_auto_download:
        from datasets.download.fetch import download_missing

        parts = [part for part, is_wanted in steps.items() if is_wanted]
        download_missing(machine, config.dataset_directory, parts, config.download_url)
    if steps["train"]:
        make_writable_directory(paths.model_dir)
        with process_lock(paths.training_lock, "waiting for another run that is training the same model") as waited:
            skip_if_trained = (config.restart or waited) and not config.checkpoint_path
            train(config, machine, paths, device, skip_if_trained)
    if steps["test"]:
        test(config, machine, paths, device)


def main() -> None:
    """Read the command line, then train and test."""
    config = load_config()
    machine = find_machine(config.dataset, config.split, config.dataset_directory)
    machine.section_names(config.use_ids)  # check the sections before slow imports
    run(config, machine)


if __name__ == "__main__":
    sys.exit(run_command(main, how_to_resume()))
