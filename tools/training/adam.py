"""Adam on one buffer.

Source: D. P. Kingma, J. Ba, "Adam: A method for stochastic optimization", ICLR 2015, https://arxiv.org/abs/1412.6980.
"""

from typing import Any

import torch
from torch import nn

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """torch.optim.Adam on one buffer of parameters: on a CPU the same to the last bit, without temporary tensors.

    An optimizer of torch.optim can take its place; it takes a second to make and 70 MB, for what it imports.
    """

    def __init__(self, parameters: nn.Parameter, learning_rate: float):
        self.parameters, self._learning_rate = parameters, learning_rate
        # On the device, and a float, as the fused kernel wants it.
        self._steps = torch.zeros((), device=parameters.device)
        self._mean, self._mean_square = (torch.zeros_like(parameters, requires_grad=False) for _ in range(2))
        self._root = None if parameters.is_cuda else torch.empty_like(parameters, requires_grad=False)

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Set the gradients to zero, where they are: `set_to_none` is there for torch.optim's sake."""
        self.parameters.grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters by their gradients."""
        self._steps += 1
        if self.parameters.is_cuda:
            self._fused_step()
        else:
            self._plain_step()

    def _plain_step(self) -> None:
        gradient, steps = self.parameters.grad, float(self._steps)
        self._mean.lerp_(gradient, 1 - BETA1)
        self._mean_square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        torch.sqrt(self._mean_square, out=self._root).div_((1 - BETA2**steps) ** 0.5).add_(EPSILON)
        self.parameters.addcdiv_(self._mean, self._root, value=-self._learning_rate / (1 - BETA1**steps))

    def _fused_step(self) -> None:
        """The same in one kernel, which a CUDA graph can hold. On a CPU it rounds otherwise."""
        torch._fused_adam_(
            *([self.parameters], [self.parameters.grad], [self._mean], [self._mean_square], [], [self._steps]),
            lr=self._learning_rate,
            beta1=BETA1,
            beta2=BETA2,
            weight_decay=0.0,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """The tensors that its next steps depend on, themselves."""
        return {"steps": self._steps, "mean": self._mean, "mean_square": self._mean_square}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state that `state_dict` gave."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])
