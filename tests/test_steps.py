"""Faster forms of the training step leave behind what the step itself does."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import mse_loss

from datasets.frames import split_vectors
from networks import make_network, steps
from tools.training.adam import Adam
from tools.training.fast_step import BufferedStep, CapturedStep, fastest_form, flatten_parameters
from train import training_step

D, M = 60, 12


def make(network=None, seed=0):
    torch.manual_seed(seed)
    network = (network or (lambda: make_network("DCASE2023T2-AE", D, M)))().train()
    return network, Adam(flatten_parameters(network), 0.001)


def batch(number, size=32):
    return torch.randn(size, D, generator=torch.Generator().manual_seed(number))


def everything(network, optimizer):
    return [*network.state_dict().values(), *optimizer.state_dict().values()]


def train_both(plain, fast, sizes):
    """Take the same steps with two forms of a step, and compare the losses."""
    for number, size in enumerate(sizes):
        x = batch(number, size)
        assert torch.equal(plain(x), fast(x)), number


def test_buffered_step_is_equal_to_the_last_bit():
    networks = [make(), make()]
    plain, fast = (partial(training_step, *each) for each in networks)
    fast = fastest_form(fast, *networks[1], batch(99))
    assert isinstance(fast, BufferedStep)
    assert all(map(torch.equal, everything(*networks[0]), everything(*networks[1])))  # the tries are undone
    train_both(plain, fast, [32, 32, 7, 32, 2, 7] * 5)
    assert all(map(torch.equal, everything(*networks[0]), everything(*networks[1])))
    assert int(networks[1][0].encoder[1].num_batches_tracked) == 30


def test_step_after_a_restart_goes_on_with_the_state():
    first = make()
    step = fastest_form(partial(training_step, *first), *first, batch(99))
    step(batch(0))
    network, optimizer = make(seed=5)
    network.load_state_dict(first[0].state_dict())
    optimizer.load_state_dict({name: value.clone() for name, value in first[1].state_dict().items()})
    step_again = fastest_form(partial(training_step, network, optimizer), network, optimizer, batch(98))
    train_both(step, step_again, [32] * 5)


def absolute_error_step(network, optimizer, x):
    loss = (network(x) - x).abs().mean(dim=1)
    optimizer.zero_grad()
    loss.mean().backward()
    optimizer.step()
    return loss.detach()


def step_with(change):
    """The step of the method, but for a change of the gradients."""

    def step(network, optimizer, x):
        loss = mse_loss(network(x), x, reduction="none").mean(dim=1)
        optimizer.zero_grad()
        loss.mean().backward()
        change(optimizer.parameters)
        optimizer.step()
        return loss.detach()

    return step


clipped_step = step_with(lambda parameters: parameters.grad.clamp_(-1e-4, 1e-4))
# Below the limit it changes nothing.
rarely_clipped_step = step_with(lambda parameters: nn.utils.clip_grad_norm_([parameters], 50.0))


class Limiting(nn.Module):
    """The same as its layers, for values below 20."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(D, D)

    def forward(self, x):
        return self.layer(x.clamp(-20, 20))


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.spread, self.decoder = nn.Linear(D, 8), nn.Linear(D, 8), nn.Linear(8, D)

    def forward(self, x):
        return self.decoder(self.mean(x) + self.spread(x))


class Backwards(nn.Module):
    """The decoder was made first."""

    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = nn.Linear(8, D), nn.Linear(D, 8)

    def forward(self, x):
        return self.decoder(self.encoder(x))


class Averaging(nn.Module):
    """It changes a buffer that is not saved."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(D, D)
        self.register_buffer("mean", torch.zeros(D), persistent=False)

    def forward(self, x):
        self.mean.lerp_(x.mean(dim=0), 0.1)
        return self.layer(x) + self.mean


class Skipping(nn.Module):
    """Layers of the known kinds, but not in a row."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x):
        return self.second(self.first(x)) + x


def in_a_row(*layers):
    return lambda: nn.Sequential(*(layer() for layer in layers))


@pytest.mark.parametrize("step", [absolute_error_step, clipped_step, rarely_clipped_step])
def test_another_loss_is_taken_as_it_is(step):
    plain = partial(step, *make())
    networks = make()
    form = partial(step, *networks)
    assert fastest_form(form, *networks, batch(99)) is form
    train_both(plain, form, [32] * 3)


@pytest.mark.parametrize(
    "network",
    [
        *(Skipping, Limiting, TwoHeads, Backwards, Averaging),
        in_a_row(lambda: nn.Linear(D, 8, bias=False), lambda: nn.Linear(8, D)),
        in_a_row(lambda: nn.Linear(D, 8), lambda: nn.BatchNorm1d(8, affine=False), lambda: nn.Linear(8, D)),
        in_a_row(lambda: nn.Linear(D, 8), lambda: nn.BatchNorm1d(8, momentum=None), lambda: nn.Linear(8, D)),
        in_a_row(lambda: nn.Linear(D, 8), lambda: nn.Dropout(0.5), lambda: nn.Linear(8, D)),
        in_a_row(nn.ReLU, lambda: nn.Linear(D, D)),
    ],
)
def test_another_network_is_taken_as_it_is(network):
    """And drawing random numbers in the tries changes nothing."""
    plain, networks = make(network), make(network)
    form = partial(training_step, *networks)
    assert fastest_form(form, *networks, batch(99)) is form
    for number in range(3):
        losses = []
        for each in (plain, networks):
            torch.manual_seed(number)
            losses.append(training_step(*each, batch(number)))
        assert torch.equal(*losses)
    assert all(map(torch.equal, everything(*plain), everything(*networks)))


def test_a_frozen_layer_is_taken_as_it_is():
    def frozen():
        network = make_network("DCASE2023T2-AE", D, M)
        network.encoder[0].requires_grad_(False)
        return network

    networks = make(frozen)
    form = partial(training_step, *networks)
    assert fastest_form(form, *networks, batch(99)) is form


@pytest.mark.parametrize("layers", [(nn.ReLU,), (), (nn.ReLU, nn.ReLU)])
def test_other_layers_in_a_row_have_the_faster_form(layers):
    network = in_a_row(lambda: nn.Linear(D, 8), lambda: nn.BatchNorm1d(8), *layers, lambda: nn.Linear(8, D), *layers)
    networks = [make(network), make(network)]
    plain, fast = (partial(training_step, *each) for each in networks)
    fast = fastest_form(fast, *networks[1], batch(99))
    assert isinstance(fast, BufferedStep)
    train_both(plain, fast, [32, 5, 32])


@pytest.mark.parametrize(
    "make_optimizer",
    [torch.optim.Adam, torch.optim.NAdam, torch.optim.Rprop, partial(torch.optim.SGD, momentum=0.9, dampening=0.5)],
)
def test_optimizers_of_torch_are_taken_as_they_are(make_optimizer):
    networks = []
    for _ in range(2):
        network, adam = make()
        networks.append((network, make_optimizer([adam.parameters], lr=0.01)))
    plain, form = (partial(training_step, *each) for each in networks)
    assert fastest_form(form, *networks[1], batch(99)) is form
    train_both(plain, form, [32, 5, 32, 32])
    assert all(map(torch.equal, *(network.state_dict().values() for network, _ in networks)))


def test_adam_equals_that_of_torch():
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 500)) for _ in range(2))
    adam, reference = Adam(ours, 0.003), torch.optim.Adam([theirs], lr=0.003)
    generator = torch.Generator().manual_seed(1)
    for _ in range(100):
        gradient = torch.randn(500, generator=generator) * 10 ** torch.randn(500, generator=generator)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        adam.step()
        reference.step()
        assert torch.equal(ours, theirs)


def test_adam_in_one_kernel_is_the_same_but_for_rounding(monkeypatch):
    """The form for CUDA graphs; this kernel exists for the CPU as well."""
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 500)) for _ in range(2))
    plain, fused = Adam(ours, 0.003), Adam(theirs, 0.003)
    monkeypatch.setattr(fused, "_plain_step", fused._fused_step)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        ours.grad = torch.randn(500, generator=generator)
        theirs.grad = ours.grad.clone()
        plain.step()
        fused.step()
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)
    assert not torch.equal(ours, torch.linspace(-1, 1, 500))


class Recorder:
    """In place of CUDA's streams and graphs: what is captured is run again by replay(), on the same tensors."""

    def __init__(self, step):
        self.step, self.replays = step, 0

    def capture(self, x):
        self.x, self.losses = x, torch.empty(len(x))
        return self.replay, self.losses

    def replay(self):
        self.replays += 1
        self.losses.copy_(self.step(self.x))


def test_captured_step_without_a_gpu(monkeypatch):
    """All of it but the capture itself: its own input, undone tries, and a last, smaller batch."""
    networks = [make(), make()]
    plain, step = (partial(training_step, *each) for each in networks)
    recorder = Recorder(step)
    monkeypatch.setattr(steps, "_capture", lambda step, x, tries: (tries(), recorder.capture(x))[1])
    fast = CapturedStep(step, *networks[1], batch(99))
    assert recorder.replays == 0
    assert all(map(torch.equal, everything(*networks[0]), everything(*networks[1])))
    train_both(plain, fast, [32, 32, 7, 32, 7])
    assert recorder.replays == 3
    assert all(map(torch.equal, everything(*networks[0]), everything(*networks[1])))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_first_epoch_on_a_gpu_has_the_losses_of_the_cpu():
    data = torch.randn(3000, D, generator=torch.Generator().manual_seed(0)).split(64)
    losses = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        network = make_network("DCASE2023T2-AE", D, M).to(device).train()
        optimizer = Adam(flatten_parameters(network), 0.001)
        step = fastest_form(partial(training_step, network, optimizer), network, optimizer, data[0].to(device))
        assert isinstance(step, BufferedStep if device == "cpu" else CapturedStep)
        losses.append(torch.stack([step(x.to(device)).mean().cpu() for x in data]))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=0)


@pytest.mark.parametrize(("n", "share"), [(10, 0.1), (11, 0.1), (999, 0.25), (6832, 0.1), (20, 0.33)])
def test_split_is_that_of_scikit_learn(n, share):
    np.random.seed(n)
    train, valid = split_vectors(n, share)
    np.random.seed(n)
    expected = train_test_split(range(n), test_size=share)
    assert [train.tolist(), valid.tolist()] == expected
