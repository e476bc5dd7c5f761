"""The fast forms of the training step leave what the step itself leaves; an edited step runs as it is written."""

from functools import partial

import pytest
import torch
from torch import nn

from fingerprints import fingerprint_of_function
from networks import make_network
from networks.autoencoder import AutoEncoder
from tools.training import fast_step
from tools.training.adam import Adam
from tools.training.buffered_step import BufferedStep
from tools.training.fast_step import CapturedStep, fastest_form, known_step
from train import training_step

D, M = 60, 12


def make(network=None, seed=0):
    torch.manual_seed(seed)
    network = (network or (lambda: make_network("DCASE2023T2-AE", D, M)))().train()
    return network, Adam(network.parameters(), lr=0.001)


def batch(number, size=32):
    return torch.randn(size, D, generator=torch.Generator().manual_seed(number))


def tensors(network, optimizer):
    return [*network.state_dict().values(), *optimizer.state_dict().values()]


def assert_equal_tensors(first, second):
    assert all(map(torch.equal, tensors(*first), tensors(*second)))


def train_both(plain, fast, sizes):
    """Take the same steps with two forms of a step, and compare the losses."""
    for number, size in enumerate(sizes):
        x = batch(number, size)
        assert torch.equal(plain(x), fast(x)), number


def test_buffered_step_is_equal_to_the_last_bit():
    plain, fast = make(), make()
    step = fastest_form(training_step, *fast, batch(99))
    assert isinstance(step, BufferedStep)
    assert_equal_tensors(plain, fast)  # the trial steps are undone
    train_both(partial(training_step, *plain), step, [32, 32, 7, 32, 2, 7] * 5)
    assert_equal_tensors(plain, fast)
    assert int(fast[0].encoder[1].num_batches_tracked) == 30


def test_a_restored_state_continues_with_the_same_steps():
    first, second = make(), make(seed=5)
    step = fastest_form(training_step, *first, batch(99))
    step(batch(0))
    for restored, source in zip(second, first, strict=True):
        restored.load_state_dict({name: value.clone() for name, value in source.state_dict().items()})
    train_both(step, fastest_form(training_step, *second, batch(98)), [32] * 5)


# --- Edits of training_step


def absolute_error(network, optimizer, x):
    loss = (network(x) - x).abs().mean(dim=1)
    optimizer.zero_grad()
    loss.mean().backward()
    optimizer.step()
    return loss.detach()


def clipped(network, optimizer, x):
    loss = (network(x) - x).square().mean(dim=1)
    optimizer.zero_grad()
    loss.mean().backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1e9)  # changes nothing here: a trial would not notice it
    optimizer.step()
    return loss.detach()


def averaging(network, optimizer, x):
    """An exponential moving average of the weights, which no loss shows."""
    loss = (network(x) - x).square().mean(dim=1)
    optimizer.zero_grad()
    loss.mean().backward()
    optimizer.step()
    network.average = [0.9 * a + 0.1 * p.detach() for a, p in zip(network.average, network.parameters(), strict=True)]
    return loss.detach()


@torch.enable_grad()
def decorated(network, optimizer, x):
    loss = (network(x) - x).square().mean(dim=1)
    optimizer.zero_grad()
    loss.mean().backward()
    optimizer.step()
    return loss.detach()


def swapped_arguments(optimizer, network, x):
    loss = (network(x) - x).square().mean(dim=1)
    optimizer.zero_grad()
    loss.mean().backward()
    optimizer.step()
    return loss.detach()


@pytest.mark.parametrize("edited", [absolute_error, clipped, averaging, decorated, swapped_arguments])
def test_an_edited_step_runs_as_it_is_written(edited, caplog):
    caplog.set_level("INFO")
    network, optimizer = make()
    network.average = [torch.zeros_like(parameter) for parameter in network.parameters()]
    step = fastest_form(edited, network, optimizer, batch(99))
    assert (step.func, step.args) == (edited, (network, optimizer))
    assert [record.message.split(":")[0] for record in caplog.records] == ["training_step was edited"]
    if edited is averaging:
        step(batch(0))
        assert network.average[-1].abs().sum() > 0


def test_comments_are_no_edit():
    def commented(network: nn.Module, optimizer, x):
        """Another text."""
        # the loss of each vector
        loss = (network(x) - x).square().mean(dim=1)  # (B,)

        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        return loss.detach()

    assert isinstance(fastest_form(commented, *make(), batch(99)), BufferedStep)
    prints = [fingerprint_of_function(step) for step in (commented, training_step, known_step)]
    assert prints[0] == prints[1] == prints[2] != ""
    assert fingerprint_of_function(partial(training_step)) == ""


# --- Other networks


class Coder(nn.Module):
    """An encoder and a decoder of any layers."""

    def __init__(self, *layers):
        super().__init__()
        self.encoder, self.decoder = nn.Sequential(*layers[:-1]), nn.Sequential(layers[-1])

    def forward(self, vectors):
        return self.decoder(self.encoder(vectors))


class Skipping(AutoEncoder):
    def forward(self, vectors):
        return super().forward(vectors) + vectors


class NoisyLater(AutoEncoder):
    """Noise after some steps, which no trial on a few batches would show."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.calls = 0

    def forward(self, vectors):
        self.calls += self.training
        return super().forward(vectors + torch.randn_like(vectors) if self.calls > 12 else vectors)


class Hooked(AutoEncoder):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.decoder.register_forward_hook(lambda module, inputs, output: output.clamp(-50, 50))


def sequence(*layers):
    return lambda: Coder(*(layer() for layer in layers))


def frozen():
    network = make_network("DCASE2023T2-AE", D, M)
    network.encoder[0].requires_grad_(False)
    return network


@pytest.mark.parametrize(
    "network",
    [
        *(lambda: Skipping(D, M), lambda: NoisyLater(D, M), lambda: Hooked(D, M), frozen),
        sequence(lambda: nn.Linear(D, 8, bias=False), lambda: nn.Linear(8, D)),
        sequence(lambda: nn.Linear(D, 8), lambda: nn.BatchNorm1d(8, affine=False), lambda: nn.Linear(8, D)),
        sequence(lambda: nn.Linear(D, 8), lambda: nn.BatchNorm1d(8, momentum=None), lambda: nn.Linear(8, D)),
        sequence(lambda: nn.Linear(D, 8), lambda: nn.Dropout(0.5), lambda: nn.Linear(8, D)),
    ],
)
def test_with_another_network_the_step_runs_as_it_is(network, caplog):
    """And random numbers drawn in the trials change nothing."""
    caplog.set_level("INFO")
    plain, other = make(network), make(network)
    step = fastest_form(training_step, *other, batch(99))
    assert isinstance(step, partial)
    assert "no faster version for this network" in caplog.text
    for number in range(14):
        losses = []
        for form in (partial(training_step, *plain), step):
            torch.manual_seed(number)
            losses.append(form(batch(number)))
        assert torch.equal(*losses)
    assert_equal_tensors(plain, other)


def test_a_fast_form_that_differs_in_a_bit_is_not_used(monkeypatch):
    """As a kernel of another version of PyTorch might."""
    network, optimizer = make()
    exact = BufferedStep.__call__
    monkeypatch.setattr(BufferedStep, "__call__", lambda self, x: torch.nextafter(exact(self, x), torch.tensor(0.0)))
    assert isinstance(fastest_form(training_step, network, optimizer, batch(99)), partial)


@pytest.mark.parametrize("layers", [(nn.ReLU,), (), (nn.ReLU, nn.ReLU)])
def test_other_sequences_of_layers_have_the_fast_form(layers):
    network = sequence(lambda: nn.Linear(D, 8), lambda: nn.BatchNorm1d(8), *layers, lambda: nn.Linear(8, D))
    plain, fast = make(network), make(network)
    step = fastest_form(training_step, *fast, batch(99))
    assert isinstance(step, BufferedStep)
    train_both(partial(training_step, *plain), step, [32, 5, 32])


# --- Optimizers


@pytest.mark.parametrize("name", ["Adam", "SGD", "Rprop", "Adafactor"])
def test_any_optimizer_of_torch_can_be_used(name, caplog):
    """Adafactor treats the values of a matrix together: it must see the network's own parameters."""
    caplog.set_level("INFO")
    networks = [make_network("DCASE2023T2-AE", D, M) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    optimizers = [getattr(torch.optim, name)(network.parameters(), lr=0.01) for network in networks]
    step = fastest_form(training_step, networks[0], optimizers[0], batch(99))
    assert "the optimizer is not that of" in caplog.text
    for number in range(4):
        x = batch(number)
        step(x)
        optimizers[1].zero_grad()
        (networks[1](x) - x).square().mean(dim=1).mean().backward()
        optimizers[1].step()
    assert all(map(torch.equal, networks[0].state_dict().values(), networks[1].state_dict().values()))


@pytest.mark.parametrize("zero_grad", ["optimizer", "network"])
def test_adam_equals_that_of_torch(zero_grad):
    """Also with gradients that are not those of its buffer, as after network.zero_grad()."""
    networks = [make_network("DCASE2023T2-AE", D, M) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    optimizers = [Adam(networks[0].parameters(), lr=0.003), torch.optim.Adam(networks[1].parameters(), lr=0.003)]
    for number in range(30):
        x = batch(number) * 10 ** batch(number + 1000).clamp(-3, 3)
        for network, optimizer in zip(networks, optimizers, strict=True):
            (optimizer if zero_grad == "optimizer" else network).zero_grad()
            (network(x) - x).square().mean().backward()
            optimizer.step()
        assert all(map(torch.equal, networks[0].parameters(), networks[1].parameters())), number


def test_adam_in_one_kernel_is_the_same_but_for_rounding(monkeypatch):
    """The form for CUDA graphs; this kernel exists for the CPU as well."""
    (network, plain), (fused_network, fused) = make(), make()
    monkeypatch.setattr(fused, "_plain_step", fused._fused_step)
    before = network.encoder[0].weight.detach().clone()
    for number in range(20):
        for parameter, other in zip(network.parameters(), fused_network.parameters(), strict=True):
            if parameter.requires_grad:
                parameter.grad.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
                other.grad.copy_(parameter.grad)
        plain.step()
        fused.step()
    torch.testing.assert_close(fused_network.encoder[0].weight, network.encoder[0].weight, rtol=1e-5, atol=1e-6)
    assert not torch.equal(network.encoder[0].weight, before)


# --- CUDA


class Recorder:
    """In place of CUDA's streams and graphs: replay() runs the captured step again, on the same tensors."""

    def __init__(self, step):
        self.step, self.replays = step, 0

    def capture(self, x):
        self.x, self.losses = x, torch.empty(len(x))
        return self.replay, self.losses

    def replay(self):
        self.replays += 1
        self.losses.copy_(self.step(self.x))


def test_captured_step_without_a_gpu(monkeypatch):
    """All of it but the capture itself: its own input, undone trials, a smaller last batch, another learning rate."""
    plain, captured = make(), make()
    recorder = Recorder(partial(training_step, *captured))
    monkeypatch.setattr(fast_step, "_capture", lambda step, x, warm_up: (warm_up(), recorder.capture(x))[1])
    fast = CapturedStep(partial(training_step, *captured), *captured, batch(99))
    assert recorder.replays == 0
    assert_equal_tensors(plain, captured)
    train_both(partial(training_step, *plain), fast, [32, 32, 7, 32, 7])
    assert recorder.replays == 3
    plain[1].lr = captured[1].lr = 0.01
    train_both(partial(training_step, *plain), fast, [32])
    assert recorder.replays == 3
    assert_equal_tensors(plain, captured)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_first_epoch_on_a_gpu_has_the_losses_of_the_cpu():
    data = torch.randn(3000, D, generator=torch.Generator().manual_seed(0)).split(64)
    losses = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        network = make_network("DCASE2023T2-AE", D, M).to(device).train()
        step = fastest_form(training_step, network, Adam(network.parameters(), lr=0.001), data[0].to(device))
        assert isinstance(step, BufferedStep if device == "cpu" else CapturedStep)
        losses.append(torch.stack([step(x.to(device)).mean().cpu() for x in data]))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=0)
