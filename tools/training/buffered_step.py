"""The training step of a sequence of layers on a CPU, without autograd's overhead. See fast_step.py.

B: vectors per batch, D: values per vector.
"""

import torch
from torch import nn

from tools.training.adam import Adam


class BufferedStep:
    """A training step for a sequence of layers and the mean squared error. It allocates buffers once per batch size.

    It calls the same functions as PyTorch's autograd, in the same order, without its overhead and temporary tensors.
    """

    def __init__(self, layers: list[nn.Module], optimizer: Adam):
        self._layers, self._optimizer = layers, optimizer
        self._passes: dict[int, _Pass] = {}

    @classmethod
    def from_network(cls, network: nn.Module, optimizer: Adam, x: torch.Tensor) -> "BufferedStep | None":
        """The step for a network, or None if the network is not a sequence of the layers in FORMS."""
        layers = [module for module in network.modules() if not list(module.children())]
        if not all(map(_has_form, layers)) or type(layers[0]) is not nn.Linear:
            return None
        width = x.shape[1]
        for layer in layers:
            if getattr(layer, "in_features", getattr(layer, "num_features", width)) != width:
                return None
            width = getattr(layer, "out_features", width)
        in_layers = {id(parameter) for layer in layers for parameter in layer.parameters()}
        trained = {id(parameter) for parameter in network.parameters() if parameter.requires_grad}
        one_dtype = {x.dtype} == {parameter.dtype for parameter in network.parameters()}
        return cls(layers, optimizer) if width == x.shape[1] and in_layers == trained and one_dtype else None

    @torch.no_grad()
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Run a step: vectors (B, D) -> losses (B,)."""
        if len(x) not in self._passes:
            self._passes[len(x)] = _Pass(self._layers, *x.shape)
        losses = self._passes[len(x)](x)
        self._optimizer.step()
        return losses


class _Pass:
    """Forward and backward pass for one batch size B: the losses, and the gradients of their mean."""

    def __init__(self, layers: list[nn.Module], n: int, width: int):
        self._forms = [FORMS[type(layer)](layer, n, is_first=layer is layers[0]) for layer in layers]
        self._gradient, self._squares = torch.empty(n, width), torch.empty(n, width)
        # d loss / d (x̂ − x) for the mean over D, then over B, divided in the order and precision of autograd.
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


class _ReLU:  # in place, because the layer before it does not need its output again
    def __init__(self, layer: nn.ReLU, n: int, is_first: bool):
        pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._output = x.relu_()
        return self._output

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        return _relu_backward(gradient, self._output, 0, grad_input=gradient)


# The functions that autograd calls.
_batch_norm_backward = torch.ops.aten.native_batch_norm_backward.out
_relu_backward = torch.ops.aten.threshold_backward.grad_input
FORMS = {nn.Linear: _Linear, nn.BatchNorm1d: _BatchNorm, nn.ReLU: _ReLU}


def _has_form(layer: nn.Module) -> bool:
    """Whether the layer is one of FORMS and has all parts, such as a bias and running statistics."""
    parts = [getattr(layer, name, 0) for name in ("weight", "bias", "running_mean", "momentum")]
    return type(layer) in FORMS and all(part is not None for part in parts)
