"""Faster versions of train.training_step with the same results. They run only if that function is unedited.

B: vectors per batch, D: values per vector.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from fingerprints import fingerprint_of_function
from tools.training.adam import Adam
from tools.training.buffered_step import BufferedStep
from tools.training.generators import generator_states, set_generator_states

log = logging.getLogger("baseline")

# Updates the weights: vectors (B, D) → losses (B,).
Step = Callable[[torch.Tensor], torch.Tensor]


def known_step(network: nn.Module, optimizer: Any, x: torch.Tensor) -> torch.Tensor:
    """The code of train.training_step that the faster versions replace."""
    loss = (network(x) - x).square().mean(dim=1)
    optimizer.zero_grad()
    loss.mean().backward()
    optimizer.step()
    return loss.detach()


def known_forward(self: nn.Module, vectors: torch.Tensor) -> torch.Tensor:
    """The code of AutoEncoder.forward that the faster versions need."""
    return self.decoder(self.encoder(vectors))


def fastest_form(training_step: Callable, network: nn.Module, optimizer: Any, x: torch.Tensor) -> Step:
    """The fastest version of `training_step` that gives the same results, or `training_step` itself if it was edited.

    On a CPU this is a BufferedStep, if losses, weights and optimizer state are equal to the last bit. On a GPU it is
    the step as a CUDA graph, if its losses are equal up to rounding. This is tested on a few batches. Then weights,
    buffers, optimizer and random generators are restored. With an optimizer other than tools/training/adam.py, or a
    network that is not an encoder followed by a decoder, `training_step` runs as written.

    Args:
        training_step: (network, optimizer, vectors (B, D)) → losses (B,).
        x: (B, D) a batch for the test. Batches of other sizes and levels are derived from it.
    """
    step = partial(training_step, network, optimizer)
    if fingerprint_of_function(training_step) != fingerprint_of_function(known_step):
        log.info("training_step was edited: it runs as written, without the faster version")
        return step
    if type(optimizer) is not Adam:
        log.info("the optimizer is not that of tools/training/adam.py: training_step runs without the faster version")
        return step
    network.train()
    fast = None
    if _is_plain(network):
        fast = _captured(step, network, optimizer, x) if x.is_cuda else BufferedStep.from_network(network, optimizer, x)
    if fast is None or not _equal(step, fast, network, optimizer, x):
        log.info("no faster version for this network: training_step runs without the faster version")
        return step
    return fast


def _is_plain(network: nn.Module) -> bool:
    """Whether the forward pass is only the encoder, then the decoder. A test on a few batches cannot show this."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, name) for module in network.modules() for name in hooks):
        return False
    if fingerprint_of_function(type(network).forward) != fingerprint_of_function(known_forward):
        return False
    return type(network.encoder) is type(network.decoder) is nn.Sequential


def _equal(step: Step, fast: Step, network: nn.Module, optimizer: Adam, x: torch.Tensor) -> bool:
    """Whether two versions of a step agree on batches of several sizes and levels."""
    batches = [x, 1e3 * x, 1e-3 * x, x[: len(x) // 2 + 1]]
    expected, found = (_try(version, network, optimizer, batches) for version in (step, fast))
    if x.is_cuda:  # kernels sum in no fixed order, so weights drift apart by rounding: compare the losses
        return all(torch.allclose(a, b, rtol=1e-3) for a, b in zip(expected[:4], found[:4], strict=True))
    return all(map(torch.equal, expected, found))


def _try(step: Step, network: nn.Module, optimizer: Adam, batches: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The losses of a step for each batch, and all tensors after the last one. Then everything is restored."""
    tensors = [*network.parameters(), *network.buffers(), *optimizer.state_dict().values()]
    before = [tensor.detach().clone() for tensor in tensors]
    states = generator_states(batches[0].device)
    try:
        losses = [step(batch).clone() for batch in batches]
        return losses + [tensor.detach().clone() for tensor in tensors]
    finally:
        set_generator_states(states, batches[0].device)
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)


def _captured(step: Step, network: nn.Module, optimizer: Adam, x: torch.Tensor) -> "CapturedStep | None":
    """The step as a CUDA graph, or None if it cannot be captured, for example if the network reads a value back."""
    try:
        # The current device must be that of the graph. After a failed capture, its stream would stay the current one.
        with torch.cuda.device(x.device), torch.cuda.stream(torch.cuda.current_stream(x.device)):
            return CapturedStep(step, network, optimizer, x)
    except RuntimeError as error:
        log.debug("no CUDA graph: %s", error)
        return None


class CapturedStep:
    """A step as a CUDA graph, which starts its many small kernels at once.

    For a batch of another size, or after a change of the learning rate, the plain step runs.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs, whole-network capture.
    """

    def __init__(self, step: Step, network: nn.Module, optimizer: Adam, x: torch.Tensor):
        self._step, self._optimizer, self._lr, self._x = step, optimizer, optimizer.lr, x.clone()
        # PyTorch allocates some memory at first use, which must not happen during the capture: run some steps before.
        self._replay, self._losses = _capture(step, self._x, lambda: _try(step, network, optimizer, 3 * [self._x]))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Run a step: vectors (B, D) -> losses (B,)."""
        if x.shape != self._x.shape or self._optimizer.lr != self._lr:
            return self._step(x)
        self._x.copy_(x)
        self._replay()
        return self._losses.clone()


def _capture(step: Step, x: torch.Tensor, warm_up: Callable[[], object]) -> tuple[Callable[[], None], torch.Tensor]:
    """A function that replays step(x) on the tensors' current values, and the losses that it writes."""
    stream = torch.cuda.Stream(x.device)
    stream.wait_stream(torch.cuda.current_stream(x.device))
    with torch.cuda.stream(stream):
        warm_up()
    torch.cuda.current_stream(x.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # records the kernels without running them
        losses = step(x)
    return graph.replay, losses
