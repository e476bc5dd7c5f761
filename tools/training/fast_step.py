"""Faster forms of a training step, with the same result: what train.py's loop takes in place of the step itself.

B: vectors of a batch, D: values of a vector.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from tools.training.adam import Adam
from tools.training.generators import generator_states, set_generator_states

log = logging.getLogger("baseline")

# (B, D) vectors → (B,) losses; the weights have been moved.
Step = Callable[[torch.Tensor], torch.Tensor]
# Of the flattened parameters.
Optimizer = Adam | torch.optim.Optimizer


def flatten_parameters(network: nn.Module) -> nn.Parameter:
    """Lay all trainable parameters and their gradients into one buffer each, of which they become views.

    An optimizer that treats each value alone, such as Adam, takes the same steps on the one buffer, bit by bit, in a
    fraction of the time. Call it when the network is on its device.

    Returns:
        (parameters,) the buffer, with its gradient buffer, which backward passes add to.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    flat = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    flat.grad = torch.zeros_like(flat)
    start = 0
    for parameter in parameters:
        end = start + parameter.numel()
        parameter.data = flat.data[start:end].view_as(parameter)
        parameter.grad = flat.grad[start:end].view_as(parameter)
        start = end
    return flat


def fastest_form(step: Step, network: nn.Module, optimizer: Optimizer, x: torch.Tensor) -> Step:
    """The fastest form of a training step that does the same as the step itself, as far as a few batches can show it.

    On a CPU that is a BufferedStep, if its losses, weights and optimizer state are equal to the last bit; on a GPU the
    step as a CUDA graph, if its losses are the same but for rounding. Where they are not, or the network has other
    layers, or the optimizer is another, it is the step itself.

    The tries are undone: weights, buffers, the optimizer's state, all generators. They cannot show what
    depends on time, such as a loss weight that grows from epoch to epoch: with such a step, do not call this.

    Args:
        step: one step of training `network`, whose parameters are flattened, with `optimizer`.
        x: (B, D) a batch to try it on; other sizes and levels are made from it.
    """
    network.train()
    batches = [x, 1e3 * x, 1e-3 * x, x[: len(x) // 2 + 1]]
    form = _captured(step, network, optimizer, x) if x.is_cuda else BufferedStep.of(network, optimizer, x)
    if form is not None:
        expected, found = (_try(each, network, optimizer, batches) for each in (step, form))
        equal = partial(torch.allclose, rtol=1e-3) if x.is_cuda else torch.equal
        # On a GPU the kernels' order of summing is not fixed, and weights drift apart with rounding.
        compared = len(batches) if x.is_cuda else len(expected)
        if all(map(equal, expected[:compared], found[:compared])):
            return form
    log.debug("the training step is taken as it is: no faster form does the same")
    return step


def _try(step: Step, network: nn.Module, optimizer: Adam, batches: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The losses of steps on these batches, and all tensors after them, which are as before when it returns."""
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


def _captured(step: Step, network: nn.Module, optimizer: Optimizer, x: torch.Tensor) -> "CapturedStep | None":
    """The step as a CUDA graph, or None where it cannot be captured, because it reads a figure back, say."""
    if type(optimizer) is not Adam:  # others would have to be told
        return None
    try:
        # The current device is that of the graph; after a failed capture, its stream would stay the current one.
        with torch.cuda.device(x.device), torch.cuda.stream(torch.cuda.current_stream(x.device)):
            return CapturedStep(step, network, optimizer, x)
    except RuntimeError as error:
        log.debug("no CUDA graph: %s", error)
        return None


class CapturedStep:
    """A step as a CUDA graph: its many small kernels are started at once. Batches of another size take the step itself.

    Figures that the step takes from Python, such as a learning rate, are those of the capture.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs, whole-network capture.
    """

    def __init__(self, step: Step, network: nn.Module, optimizer: Adam, x: torch.Tensor):
        self._step, self._x = step, x.clone()
        # What is made at first use may not be made while capturing.
        self._replay, self._losses = _capture(step, self._x, lambda: _try(step, network, optimizer, 3 * [self._x]))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """A step: (B, D) → (B,), valid until the next one."""
        if x.shape != self._x.shape:
            return self._step(x)
        self._x.copy_(x)
        self._replay()
        return self._losses


def _capture(step: Step, x: torch.Tensor, tries: Callable[[], object]) -> tuple[Callable[[], None], torch.Tensor]:
    """What replays step(x) on the tensors as they are then, and its losses."""
    stream = torch.cuda.Stream(x.device)
    stream.wait_stream(torch.cuda.current_stream(x.device))
    with torch.cuda.stream(stream):
        tries()
    torch.cuda.current_stream(x.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # notes the kernels, and runs none
        losses = step(x)
    return graph.replay, losses


class BufferedStep:
    """A step of layers in a row with the mean squared error, in buffers that are made once for each batch size.

    It calls what PyTorch's autograd calls, in the same order, without its overhead and temporary tensors.
    """

    def __init__(self, layers: list[nn.Module], optimizer: Adam):
        self._layers, self._optimizer = layers, optimizer
        self._passes: dict[int, _Pass] = {}

    @classmethod
    def of(cls, network: nn.Module, optimizer: Optimizer, x: torch.Tensor) -> "BufferedStep | None":
        """The step of this network, or None where there is no form of a layer, or they do not follow each other."""
        layers = [module for module in network.modules() if not list(module.children())]
        if type(optimizer) is not Adam or not all(map(_has_form, layers)) or type(layers[0]) is not nn.Linear:
            return None
        width = x.shape[1]
        for layer in layers:
            if getattr(layer, "in_features", getattr(layer, "num_features", width)) != width:
                return None
            width = getattr(layer, "out_features", width)
        in_layers = {id(parameter) for layer in layers for parameter in layer.parameters()}
        trained = {id(parameter) for parameter in network.parameters() if parameter.requires_grad}
        of_one_kind = {x.dtype} == {parameter.dtype for parameter in network.parameters()}
        return cls(layers, optimizer) if width == x.shape[1] and in_layers == trained and of_one_kind else None

    @torch.no_grad()
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """A step: (B, D) → (B,)."""
        if len(x) not in self._passes:
            self._passes[len(x)] = _Pass(self._layers, *x.shape)
        losses = self._passes[len(x)](x)
        self._optimizer.step()
        return losses


class _Pass:
    """Forward and backward pass of one batch size, B: losses, and the gradients of their mean."""

    def __init__(self, layers: list[nn.Module], n: int, width: int):
        self._forms = [FORMS[type(layer)](layer, n, is_first=layer is layers[0]) for layer in layers]
        self._gradient, self._squares = torch.empty(n, width), torch.empty(n, width)
        # d loss / d (x̂ − x) of the mean over D, then B, divided in the order and precision of the backward pass.
        self._slope = 2 * float(torch.ones(()) / n / width)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        reconstruction = x
        for form in self._forms:
            reconstruction = form.forward(reconstruction)
        gradient = torch.sub(reconstruction, x, out=self._gradient)
        losses = torch.mul(gradient, gradient, out=self._squares).mean(dim=1)  # (B, D) -> (B,)
        gradient.mul_(self._slope)
        for form in reversed(self._forms):
            gradient = form.backward(gradient)
        return losses


class _Linear:
    def __init__(self, layer: nn.Linear, n: int, is_first: bool):
        self._weight, self._bias, self._is_first = layer.weight.detach(), layer.bias.detach(), is_first
        self._transposed, self._slopes = self._weight.t(), (layer.weight.grad, layer.bias.grad)
        self._output, self._gradient = torch.empty(n, layer.out_features), torch.empty(n, layer.in_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._x = x
        return torch.addmm(self._bias, x, self._transposed, out=self._output)

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        torch.mm(gradient.t(), self._x, out=self._slopes[0])
        torch.sum(gradient, 0, out=self._slopes[1])
        return self._gradient if self._is_first else torch.mm(gradient, self._weight, out=self._gradient)


class _BatchNorm:
    def __init__(self, layer: nn.BatchNorm1d, n: int, is_first: bool):
        width, self._weight, self._bias = layer.num_features, layer.weight.detach(), layer.bias.detach()
        self._running, self._momentum, self._eps = (layer.running_mean, layer.running_var), layer.momentum, layer.eps
        self._batches, self._slopes = layer.num_batches_tracked, (layer.weight.grad, layer.bias.grad)
        self._output, self._gradient = torch.empty(n, width), torch.empty(n, width)
        self._statistics = torch.empty(width), torch.empty(width)  # mean, 1 / standard deviation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._x = x
        self._batches.add_(1)
        return torch.native_batch_norm(
            *(x, self._weight, self._bias, *self._running, True, self._momentum, self._eps),
            out=(self._output, *self._statistics),
        )[0]

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        return _batch_norm_backward(
            *(gradient, self._x, self._weight, *self._running, *self._statistics, True, self._eps, [True] * 3),
            out0=self._gradient,
            out1=self._slopes[0],
            out2=self._slopes[1],
        )[0]


class _ReLU:  # in place: what is before it does not need its output again
    def __init__(self, layer: nn.ReLU, n: int, is_first: bool):
        pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._output = x.relu_()
        return self._output

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        return _relu_backward(gradient, self._output, 0, grad_input=gradient)


# What autograd calls.
_batch_norm_backward = torch.ops.aten.native_batch_norm_backward.out
_relu_backward = torch.ops.aten.threshold_backward.grad_input
FORMS = {nn.Linear: _Linear, nn.BatchNorm1d: _BatchNorm, nn.ReLU: _ReLU}


def _has_form(layer: nn.Module) -> bool:
    parts = [getattr(layer, name, 0) for name in ("weight", "bias", "running_mean", "momentum")]
    return type(layer) in FORMS and all(part is not None for part in parts)  # with bias, running statistics and so on
