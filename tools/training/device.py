"""CPU or GPU."""

import torch

from config import BaselineError, Config


def choose_device(config: Config) -> torch.device:
    """The GPU that the configuration asks for, or the CPU if there is none. PyTorch gets one CPU thread.

    The results do not depend on the number of cores. Several machine types side by side use them.

    Raises:
        BaselineError: there are GPUs, but not this one.
    """
    torch.set_num_threads(1)
    if not config.use_cuda or not torch.cuda.is_available():
        return torch.device("cpu")
    if config.gpu_id >= torch.cuda.device_count():
        raise BaselineError(f"--gpu_id {config.gpu_id}: the GPUs here are 0 to {torch.cuda.device_count() - 1}.")
    return torch.device("cuda", config.gpu_id)
