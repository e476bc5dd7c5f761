"""Adam on one flat buffer.

Source: D. P. Kingma, J. Ba, "Adam: A method for stochastic optimization", ICLR 2015, https://arxiv.org/abs/1412.6980.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """A faster torch.optim.Adam(parameters, lr). On a CPU it gives the same values to the last bit.

    The parameters become views of one flat buffer, and their gradients views of another. So a step takes only a few
    operations. Create it after the network has been moved to its device. Any optimizer of torch.optim can replace it.

    Args:
        portable: use NumPy's square root, which gives the same bits on all processors. torch.sqrt does not.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, portable: bool = False):
        self.lr, self._portable = lr, portable
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._values = torch.cat([parameter.detach().flatten() for parameter in self._parameters])
        self._gradient = torch.zeros_like(self._values)
        sizes = [parameter.numel() for parameter in self._parameters]
        self._gradient_views = []
        views = zip(self._parameters, self._values.split(sizes), self._gradient.split(sizes), strict=True)
        for parameter, values, gradient in views:
            parameter.data = values.view_as(parameter)
            parameter.grad = gradient.view_as(parameter)
            self._gradient_views.append(parameter.grad)
        self._steps = torch.zeros((), device=self._values.device)  # a tensor, because the fused kernel needs one
        self._mean, self._mean_square, self._root = (torch.zeros_like(self._values) for _ in range(3))

    def zero_grad(self) -> None:
        """Set the gradients to zero."""
        self._gradient.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters."""
        for parameter, view in zip(self._parameters, self._gradient_views, strict=True):
            if parameter.grad is not view:  # such as after network.zero_grad()
                view.zero_() if parameter.grad is None else view.copy_(parameter.grad)
                parameter.grad = view
        self._steps += 1
        if self._values.is_cuda:
            self._fused_step()
        else:
            self._plain_step()

    def _plain_step(self) -> None:
        steps = float(self._steps)
        self._mean.lerp_(self._gradient, 1 - BETA1)
        self._mean_square.mul_(BETA2).addcmul_(self._gradient, self._gradient, value=1 - BETA2)
        if self._portable:
            np.sqrt(self._mean_square.numpy(), out=self._root.numpy())
        else:
            torch.sqrt(self._mean_square, out=self._root)
        self._root.div_((1 - BETA2**steps) ** 0.5).add_(EPSILON)
        self._values.addcdiv_(self._mean, self._root, value=-self.lr / (1 - BETA1**steps))

    def _fused_step(self) -> None:
        """The same step in one kernel, which a CUDA graph can capture. On a CPU it would round differently."""
        torch._fused_adam_(
            *([self._values], [self._gradient], [self._mean], [self._mean_square], [], [self._steps]),
            lr=self.lr,
            beta1=BETA1,
            beta2=BETA2,
            weight_decay=0.0,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """The tensors that the next steps depend on. They are not copied."""
        return {"steps": self._steps, "mean": self._mean, "mean_square": self._mean_square}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that state_dict returned."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])
