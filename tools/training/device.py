"""CPU or GPU."""

import logging
import shutil
import warnings
from pathlib import Path

import torch

from config import BaselineError, Config

log = logging.getLogger("baseline")


def choose_device(config: Config) -> torch.device:
    """The GPU that the configuration chooses, or the CPU if there is no GPU. PyTorch is set to one CPU thread.

    With one thread, the results do not depend on the number of cores. Several machine types run in parallel to use all
    cores. If this machine has a GPU that cannot be used, a warning says why.

    Raises:
        BaselineError: there are GPUs, but none with this number; or there is a GPU and --portable needs the CPU.
    """
    torch.set_num_threads(1)
    if not config.use_cuda:
        return torch.device("cpu")
    with warnings.catch_warnings(record=True) as reasons:  # such as a driver that is too old
        warnings.simplefilter("always")
        n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if n_gpus == 0:
        if reasons or shutil.which("nvidia-smi") or Path("/dev/nvidiactl").exists():
            no_cuda = torch.version.cuda is None and f"PyTorch {torch.__version__} is built without CUDA"
            reason = no_cuda or " ".join(str(warning.message) for warning in reasons) or "PyTorch finds none"
            log.warning("no usable GPU, so the CPU is used: %s. Add --use_cuda False to hide this warning.", reason)
        return torch.device("cpu")
    if config.portable:
        raise BaselineError("--portable True needs the CPU, but this machine has a GPU. Add --use_cuda False.")
    if config.gpu_id >= n_gpus:
        raise BaselineError(f"--gpu_id {config.gpu_id}: this machine has GPUs 0 to {n_gpus - 1}.")
    return torch.device("cuda", config.gpu_id)


def device_name(device: torch.device) -> str:
    """Such as `the CPU` or `NVIDIA H100 80GB HBM3`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
