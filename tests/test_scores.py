"""Scores, covariances and thresholds against slow, obvious computations."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy.stats import gamma as gamma_distribution

from config import BaselineError, UsageError, load_config
from datasets.catalog import find_machine
from networks import find_network, make_network
from networks.scores import ResidualCovariances, find_score
from networks.threshold import Gamma, fit_gamma
from tools.training.paths import run_paths
from tools.training.trained_model import _threshold

M, P = 6, 3


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = make_network("DCASE2023T2-AE", M * P, M)
    for name in ("cov_source", "cov_target"):
        rows = torch.randn(50, M)
        getattr(network, name).data = rows.T @ rows / 50
    return network


def test_mse(network):
    residuals = torch.arange(2.0 * M * P).view(2, M * P)
    expected = sum(float(value) ** 2 for value in residuals.flatten()) / residuals.numel()
    assert float(find_score("MSE")(network)(residuals)) == pytest.approx(expected)


def test_mahala_is_the_smaller_distance_of_the_mean_residual(network):
    residuals = torch.randn(7, M * P) + 0.5
    rows = residuals.reshape(-1, M).double().numpy()
    distances = []
    for covariance in (network.cov_source, network.cov_target):
        inverse = np.linalg.inv(covariance.data.double().numpy())
        distances.append(np.mean([r @ inverse @ s for r in rows for s in rows]))  # over all pairs of rows
    assert float(find_score("MAHALA")(network)(residuals)) == pytest.approx(min(distances), rel=1e-6)


def test_mahala_frame_is_the_mean_of_the_smaller_distances(network):
    residuals = torch.randn(40, M * P)
    inverses = [np.linalg.inv(c.data.double().numpy()) for c in (network.cov_source, network.cov_target)]
    vectors = residuals.double().numpy().reshape(40, P, M)
    distances = np.array([[sum(r @ inverse @ r for r in vector) for inverse in inverses] for vector in vectors])
    assert set(distances.argmin(axis=1)) == {0, 1}  # some are nearer to the source, some to the target domain
    expected = distances.min(axis=1).mean() / (M * P)
    assert float(find_score("MAHALA_FRAME")(network)(residuals)) == pytest.approx(expected, rel=1e-5)


def test_mahala_is_not_the_mean_of_the_distances_of_each_row(network):
    """The paper's formula gives a large score where residuals cancel; the published code gives nothing."""
    row = torch.randn(1, M * P)
    cancelling = torch.cat([row, -row])
    assert float(find_score("MAHALA")(network)(cancelling)) == pytest.approx(0, abs=1e-12)
    of_one = float(find_score("MAHALA_FRAME")(network)(row))
    assert float(find_score("MAHALA_FRAME")(network)(cancelling)) == pytest.approx(of_one)


def test_covariances_are_centred_by_batch_and_divided_by_vectors():
    generator = np.random.default_rng(0)
    batches = [generator.standard_normal((n, M * P)).astype(np.float32) + n for n in (5, 4)]
    domains = [np.array([0, 0, 1, 0, 1], bool), np.array([0, 0, 0, 0], bool)]
    covariances = ResidualCovariances(M, torch.device("cpu"))
    for batch, is_target in zip(batches, domains, strict=True):
        covariances.add(torch.from_numpy(batch), torch.from_numpy(is_target))
    for computed, domain, vectors in zip(covariances.source_and_target(), (False, True), (7, 2), strict=True):
        expected = np.zeros((M, M))
        for batch, is_target in zip(batches, domains, strict=True):
            rows = batch[is_target == domain].reshape(-1, M).astype(float)
            if len(rows):
                expected += sum(np.outer(row, row) for row in rows - rows.mean(axis=0))
        np.testing.assert_allclose(computed, expected / (vectors - 1), rtol=1e-5)


@pytest.mark.parametrize("is_target", [False, True])
def test_a_domain_without_vectors_has_the_covariance_of_the_other(is_target):
    covariances = ResidualCovariances(M, torch.device("cpu"))
    covariances.add(torch.randn(9, M * P), torch.full((9,), is_target))
    source, target = covariances.source_and_target()
    assert torch.equal(source, target)
    assert source.abs().sum() > 0


def test_singular_covariance_is_said_and_left_out(network, caplog):
    rows = torch.randn(50, M)
    rows[:, 2] = 0  # a band that never varies
    network.cov_source.data = network.cov_target.data = rows.T @ rows / 50
    score = find_score("MAHALA")(network)
    assert "covariance of the source domain is singular (rank 5 of 6)" in caplog.text
    residuals = torch.randn(4, M * P)
    mean = residuals.reshape(-1, M).mean(dim=0).double().numpy()
    kept = [0, 1, 3, 4, 5]
    expected = mean[kept] @ np.linalg.inv(network.cov_source.data.double().numpy()[np.ix_(kept, kept)]) @ mean[kept]
    assert float(score(residuals)) == pytest.approx(expected, rel=1e-5)


def test_state_dict_has_the_published_names():
    state = make_network("DCASE2023T2-AE", 640, 128).state_dict()
    names = list(state)
    assert names[:4] == ["cov_source", "cov_target", "encoder.0.weight", "encoder.0.bias"]
    assert names[-1] == "decoder.12.bias"
    assert state["encoder.12.weight"].shape == (8, 128)
    assert state["decoder.12.weight"].shape == (640, 128)
    assert (
        sum(v.numel() for k, v in state.items() if "weight" in k or "bias" in k) == 265_864 + 2_064
    )  # linear layers, batch normalisations


def test_unknown_names():
    with pytest.raises(UsageError, match="Did you mean 'DCASE2023T2-AE'"):
        find_network("DCASE2023-AE")
    with pytest.raises(UsageError, match="Did you mean 'MAHALA'"):
        find_score("mahal")


def test_threshold_is_a_quantile_of_the_fitted_distribution():
    scores = np.random.default_rng(0).gamma(4.0, 2.0, size=20_000) + 10
    gamma = fit_gamma(scores.tolist())
    assert gamma.threshold(0.9) == pytest.approx(np.quantile(scores, 0.9), rel=0.01)
    assert gamma.threshold(0.9) == gamma_distribution.ppf(0.9, gamma.shape, loc=gamma.loc, scale=gamma.scale)
    assert Gamma(1.0, 2.0, 3.0).threshold(0.9) == pytest.approx(2 + 3 * np.log(10))  # an exponential distribution


def test_covariances_that_are_not_finite():
    covariances = ResidualCovariances(M, torch.device("cpu"))
    covariances.add(torch.full((4, M * P), float("inf")), torch.zeros(4, dtype=torch.bool))
    with pytest.raises(BaselineError, match="residual covariances are not finite"):
        covariances.source_and_target()


@pytest.mark.parametrize("scores", [[], [1.0], [2.0, 2.0, 2.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_no_distribution(scores):
    assert fit_gamma(scores) is None


def test_a_threshold_of_few_scores_is_warned_of(caplog):
    config = load_config(["--dataset", "DCASE2024T2fan", "-d"])
    paths = run_paths(config, find_machine("DCASE2024T2fan", "dev"), ("00",))
    for n, is_warned in ((20, False), (19, True)):
        fit = fit_gamma(np.random.default_rng(0).normal(300, 10, n).tolist())
        assert _threshold({"batch": {"MSE": asdict(fit)}}, config, paths) == fit.threshold(0.9)
        assert ("is based on only 19 normal scores (--calibration batch)" in caplog.text) == is_warned
