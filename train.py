"""Train the autoencoder of one machine type on normal clips, and score its test clips: the method, step by step.

    python train.py --dataset DCASE2024T2fan -d               train, then test
    python train.py --dataset DCASE2024T2fan -d --test_only --score MAHALA

Source: N. Harada et al., "First-shot anomaly sound detection for machine condition monitoring: A domain
generalization baseline", EUSIPCO 2023, https://arxiv.org/abs/2303.00455.

P: frames of a vector, M: mel bands, D = P * M, K: vectors of a clip, B: vectors of a batch.
"""

import os
import signal
import sys

from config import BaselineError, Config, UsageError, load_config
from datasets.catalog import Machine, find_machine
from tools.training.paths import RunPaths, run_paths

if __name__ == "__main__":  # before the imports that take seconds: --help and wrong options answer at once
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda number, _: os.write(2, b"interrupted before any work\n") and os._exit(128 + number))
    try:
        CONFIG = load_config()
        MACHINE = find_machine(CONFIG.dataset, CONFIG.split)
        MACHINE.section_names(CONFIG.use_ids)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

import argparse
import logging
import math
import shlex
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import mse_loss
from tqdm import tqdm

from datasets.clips import find_clips
from datasets.feature_cache import load_log_mels
from datasets.frames import Vectors, draw_pass, split_vectors
from files import alone, make_writable_directory, remove, version_of
from networks import find_network, make_network
from networks.scores import SCORES, ResidualCovariances, Score, find_score, residual
from networks.threshold import Gamma, fit_gamma
from tools.results.metrics import MEANS
from tools.results.score_files import SectionScores, read_sections, write_metrics, write_section, write_test_record
from tools.training.adam import Adam
from tools.training.checkpoint import DamagedCheckpointError, OtherTrainingError, TrainingState, training_identity
from tools.training.console import SIGNALS, Interrupted, TrainingProgress, catch_signals, open_console, open_log_file
from tools.training.fast_step import Optimizer, Step, fastest_form, flatten_parameters
from tools.training.generators import seed_generators
from tools.training.model_files import is_trained, load_model, read_threshold, save_model

LOG_COLUMNS = ("loss", "val_loss", "recon_loss", "recon_loss_source", "recon_loss_target")

log = logging.getLogger("baseline")


def train(config: Config, machine: Machine, paths: RunPaths, device: torch.device, may_be_done: bool) -> None:
    """Train on the normal clips; write the model, its score distributions, its log and its configuration.

    Args:
        may_be_done: whether a finished model of just this training is to be left as it is.
    """
    started = time.monotonic()

    # --- Data: all vectors of the training clips
    clips = find_clips(machine, config.dataset_directory, "train", machine.section_names(config.use_ids))
    log_mels = load_log_mels(clips, config, machine.channels(config), machine.cache_directory(config))
    vectors = Vectors(log_mels, clips, config.frames, config.frame_hop_length, device)
    log.info("%d training clips, %d vectors of %d values", len(clips), len(vectors), vectors.dimension)
    n_train = len(vectors) - math.ceil(len(vectors) * config.validation_split)
    if config.batch_size > n_train:
        raise BaselineError(
            f"--batch_size {config.batch_size} is larger than the {n_train} training vectors of {machine.name}. "
            "Choose a smaller batch size, or add clips."
        )

    identity = training_identity(config, clips, log_mels)
    if may_be_done and not config.checkpoint_path and is_trained(paths, identity, config.epochs):
        log.info("trained already, %d epochs -> %s", config.epochs, shown(paths.model_dir))
        return

    # --- Random draws in the order of the published baseline: split, initial weights, then each pass over the data
    seed_generators(config.seed)
    train_index, valid_index = (index.to(device) for index in split_vectors(len(vectors), config.validation_split))
    network = make_network(config.model, vectors.dimension, config.n_mels).to(device)
    optimizer = Adam(flatten_parameters(network), config.learning_rate)
    state = TrainingState(network, optimizer, identity, device)
    if config.restart:
        resume(state, config, paths)

    # --- Training
    step = partial(training_step, network, optimizer)
    # Leave this line out to have the step run as it is stated below.
    step = fastest_form(step, network, optimizer, vectors[train_index[: config.batch_size]])
    n_batches = math.ceil(n_train / config.batch_size)  # a single vector that is left out counts as one, too
    with TrainingProgress(config.epochs, n_batches, state.epoch, config.log_interval) as progress:
        for epoch in range(state.epoch + 1, config.epochs + 1):
            network.train()
            losses, is_target = train_epoch(step, vectors, train_index, config, progress)
            valid_losses = validation_losses(network, vectors, valid_index, config.batch_size)
            batch_losses, *of_domains = batch_means(losses, is_target, config.batch_size)
            loss, of_source, of_target = (sum(each) / n_batches for each in (batch_losses, *of_domains))
            row = [loss, sum(valid_losses) / len(valid_losses), loss, of_source, of_target]  # LOG_COLUMNS
            if not np.isfinite(row).all():
                raise BaselineError(
                    f"epoch {epoch}: the loss is not a finite number any more. Choose a --learning_rate smaller than "
                    f"{config.learning_rate}. A model that was there before is unchanged."
                )
            state.finish_epoch(row, batch_losses + valid_losses)
            state.save(paths.checkpoint)
            progress.finish_epoch(epoch, loss=row[0], valid_loss=row[1])

    # --- After the last epoch: residual covariances, then the distributions of normal scores
    log.debug("covariances and score distributions")
    network.eval()
    covariances = residual_covariances(network, vectors, train_index, config)
    if not all(bool(covariance.isfinite().all()) for covariance in covariances):
        raise BaselineError("the residual covariances are not finite numbers. Choose a smaller --learning_rate.")
    network.cov_source.data, network.cov_target.data = covariances
    scores = {name: make(network) for name, make in SCORES.items()}
    of_batches = normal_scores(network, scores, batches_of_a_pass(vectors, train_index, valid_index, config))
    of_clips = normal_scores(network, scores, vectors.of_each_clip())
    of_batches["MSE"] = state.batch_losses  # while they were learnt, as published
    values = {"batch": of_batches, "clip": of_clips}  # as --calibration names them
    distributions = {calibration: fit_each(of_scores, calibration) for calibration, of_scores in values.items()}

    log.debug("writing the model")
    draw("plot_losses", paths.loss_picture, paths.model_name, *list(zip(*state.history, strict=True))[:2])
    losses = [LOG_COLUMNS, *state.history]
    save_model(config, paths, network, distributions, losses, identity, log_mels.sampling_rate, device)
    log.info(
        "trained %d epochs in %.0f s, loss %.2f, validation loss %.2f -> %s",
        state.epoch,
        time.monotonic() - started,
        *state.history[-1][:2],
        shown(paths.model_dir),
    )


def resume(state: TrainingState, config: Config, paths: RunPaths) -> None:
    """Go on from the checkpoint, if there is one; from the start where the run's own is damaged.

    With --or_anew it is the start, too, where the run's own is of another training.

    Raises:
        BaselineError: it is of another training, or was asked for and cannot be used.
    """
    if config.checkpoint_path:
        state.load(config.checkpoint_path, config.epochs)
    elif paths.checkpoint.exists():
        try:
            state.load(paths.checkpoint, config.epochs)
        except DamagedCheckpointError as error:
            log.warning("%s The training starts anew.", str(error).removesuffix(" Train without --restart."))
        except OtherTrainingError as error:
            if not config.or_anew:
                raise
            log.warning("%s The training starts anew.", error.reason)


def training_step(network: nn.Module, optimizer: Optimizer, x: torch.Tensor) -> torch.Tensor:
    """One step of training on a batch of vectors: (B, D) → the loss of each, (B,).

    What runs is the fastest form that does the same: see tools.training.fast_step.fastest_form.
    """
    loss = mse_loss(network(x), x, reduction="none").mean(dim=1)  # (B, D) -> (B,)
    optimizer.zero_grad(set_to_none=False)  # the gradients stay the views of one buffer
    loss.mean().backward()
    optimizer.step()
    return loss.detach()


def train_epoch(
    step: Step, vectors: Vectors, train_index: torch.Tensor, config: Config, progress: TrainingProgress
) -> tuple[torch.Tensor, torch.Tensor]:
    """One pass over the training vectors, a step with each batch.

    Returns:
        The loss of each vector in the order of the pass, and whether it is of the target domain: on the CPU.
    """
    order = training_order(train_index, config)
    losses = torch.empty(len(order), device=order.device)
    for batch, batch_losses in zip(order.split(config.batch_size), losses.split(config.batch_size), strict=True):
        x = vectors[batch]  # (B, D)
        batch_losses.copy_(step(x))
        progress.finish_batch(batch_losses)
    return losses.cpu(), vectors.is_target[order].cpu()


def training_order(train_index: torch.Tensor, config: Config) -> torch.Tensor:
    """Numbers of the training vectors in the order of one pass, drawn anew for each.

    A last batch of a single vector is left out: batch normalisation needs two.
    """
    order = draw_pass(train_index, config.shuffle)
    return order[:-1] if len(order) % config.batch_size == 1 else order


@torch.no_grad()
def validation_losses(network: nn.Module, vectors: Vectors, valid_index: torch.Tensor, batch_size: int) -> list[float]:
    """The loss of each batch of validation vectors, in evaluation mode.

    It is the mean over all values at once, as published: by way of each vector's mean, the last digit would differ.
    """
    network.eval()
    batches = (vectors[batch] for batch in draw_pass(valid_index, shuffle=False).split(batch_size))
    losses = [mse_loss(network(x), x) for x in batches]
    return torch.stack(losses).tolist()


def batch_means(
    losses: torch.Tensor, is_target: torch.Tensor, batch_size: int
) -> tuple[list[float], list[float], list[float]]:
    """The mean loss of each batch: of all its vectors, of those of the source, of those of the target domain.

    A batch without any of a domain has 0 there.
    """
    ends = torch.arange(batch_size, len(losses), batch_size)  # of each batch but the last
    targets = is_target.cumsum(0)[ends - 1]  # vectors of the target domain until there
    parts = (losses, ends), (losses[~is_target], ends - targets), (losses[is_target], targets)
    return tuple([float(b.mean()) if len(b) else 0.0 for b in each.tensor_split(ends.tolist())] for each, ends in parts)


@torch.no_grad()
def residual_covariances(
    network: nn.Module, vectors: Vectors, train_index: torch.Tensor, config: Config
) -> tuple[torch.Tensor, torch.Tensor]:
    """Covariances (M, M) of the residual frames of the source and the target domain, from one pass in batches."""
    covariances = ResidualCovariances(config.n_mels, train_index.device)
    for batch in training_order(train_index, config).split(config.batch_size):
        covariances.add(residual(network, vectors[batch]), vectors.is_target[batch])
    return covariances.of_domains()


def batches_of_a_pass(
    vectors: Vectors, train_index: torch.Tensor, valid_index: torch.Tensor, config: Config
) -> Iterator[torch.Tensor]:
    """The batches (B, D) of one more pass over the training vectors, then of one over the validation vectors."""
    passes = draw_pass(train_index, config.shuffle), draw_pass(valid_index, shuffle=False)
    return (vectors[batch] for order in passes for batch in order.split(config.batch_size))


@torch.no_grad()
def normal_scores(
    network: nn.Module, scores: dict[str, Score], parts: Iterable[torch.Tensor]
) -> dict[str, list[float]]:
    """Each anomaly score of each of these parts of the normal vectors, (n, D), as if it were a clip."""
    residuals = (residual(network, x) for x in parts)
    # Numbers at once: a thousand small tensors between large ones that are freed would keep 350 MB from being reused.
    values = [[float(score(part)) for score in scores.values()] for part in residuals]
    return {name: list(column) for name, column in zip(scores, zip(*values, strict=True), strict=True)}


def fit_each(scores: dict[str, list[float]], calibration: str) -> dict[str, Gamma | None]:
    """The gamma distribution of each score's values on normal sounds; a warning where there is none."""
    fits = {name: fit_gamma(values) for name, values in scores.items()}
    for name in (name for name, fit in fits.items() if fit is None):
        log.warning("no gamma distribution fits the %s scores: no decisions with --calibration %s.", name, calibration)
    return fits


@torch.no_grad()
def test(config: Config, machine: Machine, paths: RunPaths, device: torch.device) -> None:
    """Score the test clips with the trained model; write scores, decisions and, where labels are known, metrics."""
    model = load_model(config, machine, paths)
    network, threshold = model.network.to(device).eval(), model.threshold
    score = find_score(config.score)(network)

    clips = find_clips(machine, config.dataset_directory, "test", machine.section_names(config.use_ids))
    log_mels = load_log_mels(clips, config, machine.channels(config), machine.cache_directory(config))
    if model.sampling_rate not in (None, log_mels.sampling_rate):
        raise BaselineError(
            f"{clips[0].path}: sampling rate {log_mels.sampling_rate} Hz, but the model was trained on clips with "
            f"{model.sampling_rate} Hz."
        )
    vectors = Vectors(log_mels, clips, config.frames, config.frame_hop_length, device)
    scores = []
    for x in tqdm(vectors.of_each_clip(), desc="test", unit="clip", total=len(clips), disable=None, leave=False):
        scores.append(float(score(residual(network, x))))  # (K, D) -> one score

    with alone(paths.result_lock, f"waiting for another run that writes results of {machine.name}"):
        for section in sorted({clip.section for clip in clips}):
            of_section = [(clip, value) for clip, value in zip(clips, scores, strict=True) if clip.section == section]
            chosen, values = zip(*of_section, strict=True)
            decisions = None if threshold is None else [int(value > threshold) for value in values]
            write_section(paths, SectionScores(section, list(chosen), list(values), decisions))
        report(config, machine, paths, {clip.section: threshold for clip in clips})
        write_test_record(paths, clips, model.checksum)


def report(config: Config, machine: Machine, paths: RunPaths, thresholds: dict[str, float | None]) -> None:
    """Metrics and picture of all sections of the machine type that have scores; a line on those just tested.

    Args:
        thresholds: section → decision threshold, of the sections just tested; that of others is looked up.
    """
    scored = {}  # section -> its clips
    for section in machine.sections:
        if not paths.anomaly_scores(section).exists():
            continue
        try:
            scored[section] = find_clips(machine, config.dataset_directory, "test", (section,))
        except BaselineError as error:
            log.warning("section %s is left out: %s", section, error)
    results = read_sections(paths, scored)
    labelled = [result for result in results if result.labelled]
    summary = f"{sum(len(scored.get(section, ())) for section in thresholds)} clips scored"
    if not labelled:
        remove(paths.metrics)  # older ones do not belong to these scores
        remove(paths.roc_picture)
    else:
        rows = write_metrics(paths, labelled, config.max_fpr)
        mean = MEANS[machine.dataset.official_score["mean"]]
        for name in ("AUC", "AUC (source)", "AUC (target)", "pAUC"):
            values = [rows[section][name] for section in thresholds if name in rows.get(section, ())]
            summary += f", {name} {100 * mean(values):.2f} %" if values else ""
    others = [section for section in scored if section not in thresholds]
    known = thresholds | {section: threshold_of(section, config, machine) for section in others}
    title = f"{machine.dataset.name} {machine.name}, {config.score}"
    draw("plot_scores", paths.score_picture, title, results, known, config.max_fpr)
    if labelled:
        draw("plot_roc", paths.roc_picture, title, labelled, config.max_fpr)
    log.info("%s: %s -> %s", config.score, summary, shown(paths.result_dir))


def threshold_of(section: str, config: Config, machine: Machine) -> float | None:
    """The decision threshold of another section's model; None where it is not known, or its file is damaged."""
    try:
        return read_threshold(config, run_paths(config, machine, (section,)))
    except BaselineError as error:
        log.warning("section %s is drawn without its decision threshold: %s", section, error)
        return None


def download(config: Config, machine: Machine) -> None:
    """Fetch the clips that this run needs and that are not there."""
    from datasets.download.fetch import download_missing

    parts = (*(() if config.test_only else ("train",)), *(() if config.train_only else ("test",)))
    download_missing(machine, config.dataset_directory, parts, config.download_url)


def draw(function: str, path: Path, *arguments) -> None:
    """Draw a picture with a function of tools.results.plots. One that cannot be drawn costs nothing else."""
    try:
        from tools.results import plots

        getattr(plots, function)(path, *arguments)
    except Exception as error:
        log.warning("%s could not be drawn: %s", path, error)
        log.debug("", exc_info=True)


def shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def choose_device(config: Config) -> torch.device:
    """The device that the configuration asks for, or the CPU where there is no GPU.

    Raises:
        BaselineError: there are GPUs, but not this one.
    """
    if not config.use_cuda or not torch.cuda.is_available():
        return torch.device("cpu")
    if config.gpu_id >= torch.cuda.device_count():
        raise BaselineError(f"--gpu_id {config.gpu_id}: the GPUs here are 0 to {torch.cuda.device_count() - 1}.")
    return torch.device("cuda", config.gpu_id)


def run(config: Config, machine: Machine) -> None:
    """Train and test as the configuration says.

    Raises:
        BaselineError: something that the user can put right.
    """
    paths = run_paths(config, machine, machine.section_names(config.use_ids))
    open_console(os.environ.get("NAME_IN_LOOP", paths.model_name))
    try:
        find_network(config.model), find_score(config.score)  # unknown names end the run before any work
        if not config.train_only:
            make_writable_directory(paths.result_dir)  # better to find out before the training than after it
        open_log_file(paths.run_log)
        log.debug("train.py %s", shlex.join(sys.argv[1:]))
        log.debug("%s", config)
        # Results do not depend on the number of cores; cores are for several machine types side by side.
        torch.set_num_threads(1)
        device = choose_device(config)
        log.debug("device %s, torch %s, numpy %s", device, torch.__version__, np.__version__)
        if config.is_auto_download:
            download(config, machine)
        if not config.test_only:
            make_writable_directory(paths.model_dir)
            with alone(paths.training_lock, "waiting for another run that trains the same model") as waited:
                train(config, machine, paths, device, may_be_done=config.restart or waited)
        if not config.train_only:
            test(config, machine, paths, device)
    except BaselineError as error:
        log.error("%s", error)
        raise
    except Exception:
        log.debug("", exc_info=True)
        raise


def how_to_go_on(config: Config, has_checkpoint: bool) -> str:
    """What to say to somebody who has interrupted a run.

    Args:
        has_checkpoint: whether this run has written the model's checkpoint; an older one may be of another training.
    """
    kept = "interrupted; " + ("finished epochs are kept" if has_checkpoint else "no file is half written")
    if "NAME_IN_LOOP" in os.environ:  # from the loop over machine types, which says how all of them go on
        return kept
    arguments = sys.argv[1:]
    if has_checkpoint:
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--checkpoint_path")  # of before this run
        _, arguments = parser.parse_known_args(arguments)
        arguments += [] if config.restart else ["--restart"]
    return f"{kept}. To go on: {shlex.join([sys.executable, sys.argv[0], *arguments])}"


if __name__ == "__main__":
    catch_signals()
    checkpoint = run_paths(CONFIG, MACHINE, MACHINE.section_names(CONFIG.use_ids)).checkpoint
    older = version_of(checkpoint)
    try:
        run(CONFIG, MACHINE)
    except BaselineError as error:
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except Interrupted as stop:
        log.warning("%s", how_to_go_on(CONFIG, version_of(checkpoint) != older))
        sys.exit(stop.status)
    finally:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
