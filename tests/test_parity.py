"""Training equals the plain implementation of the published method to the last bit, and values that it published."""

import csv
import json

import numpy as np
import pytest
import torch
from conftest import RAW, Workspace
from plain_baseline import clip_vectors, plain_mahala, plain_mahala_frame, plain_mse, train_plainly
from scipy.stats import gamma
from sklearn.metrics import roc_auc_score
from test_other_years import names_of_2020, names_of_2021, names_of_later_years, write_clips

from config import load_config
from datasets.catalog import find_machine
from datasets.clips import find_clips
from datasets.feature_cache import load_log_mels
from datasets.frames import Vectors, draw_pass, split_vectors
from networks.scores import SCORES
from networks.threshold import Gamma, fit_gamma


def read_log(path):
    with path.open() as file:
        return [[float(value) for value in row.values()] for row in csv.DictReader(file)]


def read_column(path):
    with path.open() as file:
        return {name: float(value) for name, value in csv.reader(file)}


@pytest.fixture(scope="module")
def plain(demo_data):
    return train_plainly(demo_data / RAW / "fan", epochs=3, seed=13711, batch_size=256)


def test_training_is_equal_to_the_last_bit(trained, plain):
    assert read_log(trained.model() / "log.csv") == plain["log"]
    weights = torch.load(trained.model() / "model.pth", weights_only=True)
    expected = plain["network"].state_dict()
    assert list(weights) == ["cov_source", "cov_target", *expected]
    for name, values in expected.items():
        assert torch.equal(weights[name], values), name


def test_covariances_and_distributions(trained, plain):
    weights = torch.load(trained.model() / "model.pth", weights_only=True)
    for name, is_target in (("cov_source", False), ("cov_target", True)):
        np.testing.assert_allclose(weights[name], plain["covariances"][is_target], rtol=1e-4, atol=1e-4)
    fits = json.loads((trained.model() / "score_distribution.json").read_text())
    assert fits["batch"]["MSE"] == vars(fit_gamma(plain["batch_scores"]["MSE"]))
    expected = fit_gamma(plain["batch_scores"]["MAHALA"])
    assert fits["batch"]["MAHALA"]["loc"] == pytest.approx(expected.loc, rel=1e-3)


def test_scores_and_decisions(trained, plain):
    test_clips = sorted((trained.data / RAW / "fan" / "test").glob("*.wav"))
    test_clips.sort(key=lambda path: "anomaly" in path.name)
    for score, tolerance in (("MSE", 1e-6), ("MAHALA", 1e-4), ("MAHALA_FRAME", 1e-4)):
        scores = read_column(trained.result(score) / "anomaly_score_fan_section_00_test.csv")
        assert list(scores) == [path.name for path in test_clips]
        fit = json.loads((trained.model() / "score_distribution.json").read_text())["batch"][score]
        threshold = plain_quantile(fit)
        decisions = read_column(trained.result(score) / "decision_result_fan_section_00_test.csv")
        for path, expected in zip(test_clips, plain_scores(plain, test_clips, score), strict=True):
            assert scores[path.name] == pytest.approx(expected, rel=tolerance)
            assert decisions[path.name] == (scores[path.name] > threshold)


def test_clip_calibration(trained, plain, tmp_path):
    """Thresholds from the scores of the training clips, and none of the anomaly scores changes."""
    workspace = Workspace(tmp_path, trained.data)
    workspace.models = trained.models
    fits = json.loads((trained.model() / "score_distribution.json").read_text())["clip"]
    for score in SCORES:
        expected = gamma.fit(list(plain_scores(plain, sorted((trained.data / RAW / "fan" / "train").iterdir()), score)))
        assert plain_quantile(fits[score]) == pytest.approx(gamma(*expected).ppf(0.9), rel=1e-3)
        workspace.run_here("--test_only", "--calibration", "clip", "--score", score)
        scores, decisions = (
            read_column(workspace.result(score) / f"{kind}_fan_section_00_test.csv")
            for kind in ("anomaly_score", "decision_result")
        )
        assert scores == read_column(trained.result(score) / "anomaly_score_fan_section_00_test.csv")
        assert decisions == {name: value > plain_quantile(fits[score]) for name, value in scores.items()}


def plain_scores(plain, paths, score, hop=1):
    functions = {"MAHALA": plain_mahala, "MAHALA_FRAME": plain_mahala_frame}
    covariances = {domain: cov.float() for domain, cov in plain["covariances"].items()}
    for path in paths:
        x = torch.from_numpy(np.stack(clip_vectors(path, hop)))
        with torch.no_grad():
            network = plain["network"]
            yield plain_mse(network, x) if score == "MSE" else functions[score](network, x, covariances)


def plain_quantile(fit, quantile=0.9):
    """The 0.9 quantile by bisection of the distribution function."""
    from scipy.special import gammainc

    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if gammainc(fit["shape"], middle) < quantile else (low, middle)
    return fit["loc"] + fit["scale"] * low


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ({"batch_size": 100}, 80),  # a smaller last batch is kept
        ({"batch_size": 197}, 1),  # one of a single vector is skipped in training, and counts in the number of batches
        ({"batch_size": 64, "shuffle": False, "learning_rate": 0.003}, 36),
        ({"batch_size": 64, "validation_split": 0.3, "frame_hop_length": 3, "epochs": 3}, 44),
    ],
)
def test_other_options(tmp_path, demo_data, options, last):
    options = {"epochs": 2, "seed": 7} | options
    workspace = Workspace(tmp_path, demo_data)
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    workspace.run_here(*arguments, "--max_fpr", "0.3", "--decision_threshold", "0.4")
    workspace.run_here("--test_only", "--score", "MAHALA", *arguments)
    plain = train_plainly(demo_data / RAW / "fan", **options)
    assert len(plain["train"]) % options["batch_size"] == last
    assert read_log(workspace.model(run="seed7") / "log.csv") == plain["log"]
    fits = json.loads((workspace.model(run="seed7") / "score_distribution.json").read_text())["batch"]
    assert fits["MSE"] == vars(fit_gamma(plain["batch_scores"]["MSE"]))
    expected = fit_gamma(plain["batch_scores"]["MAHALA"])  # the parameters hang on the scores' last digits
    assert Gamma(**fits["MAHALA"]).threshold(0.9) == pytest.approx(expected.threshold(0.9), rel=1e-3)

    paths = sorted((demo_data / RAW / "fan" / "test").glob("*.wav"), key=lambda path: ("anomaly" in path.name, path))
    hop = options.get("frame_hop_length", 1)
    scores = read_column(workspace.result(run="seed7") / "anomaly_score_fan_section_00_test.csv")
    assert [*scores.values()] == pytest.approx(list(plain_scores(plain, paths, "MSE", hop)), rel=1e-6)
    decisions = read_column(workspace.result(run="seed7") / "decision_result_fan_section_00_test.csv")
    assert decisions == {name: value > plain_quantile(fits["MSE"], 0.4) for name, value in scores.items()}
    is_anomaly = ["anomaly" in name for name in scores]
    with (workspace.result(run="seed7") / "result_fan.csv").open() as file:
        row = next(csv.DictReader(file))
    assert float(row["pAUC"]) == pytest.approx(roc_auc_score(is_anomaly, [*scores.values()], max_fpr=0.3))


@pytest.mark.parametrize(
    ("dataset", "machine", "names", "section", "channels", "clips"),
    [
        ("DCASE2020T2", "ToyConveyor", names_of_2020, "02", 1, "*_id_02_*.wav"),
        ("DCASE2021T2", "gearbox", names_of_2021, "01", 1, "section_01_*.wav"),
        ("DCASE2022T2", "bearing", names_of_later_years, "01", 1, "section_01_*.wav"),
        ("DCASE2026T2", "sliderEmu", names_of_later_years, "00", 2, "*.wav"),
    ],
)
def test_other_years(tmp_path, dataset, machine, names, section, channels, clips):
    """One section of several, a single domain, two test directories, two channels: the same bits and scores."""
    workspace = Workspace(tmp_path)
    directory = workspace.data / dataset.lower() / "dev_data" / "raw" / machine
    sections = [section] if section == "00" else ["01", "02"]
    write_clips(directory, names(sections), channels)
    options = ["--epochs", "2", "--batch_size", "64", "--use_ids", section]
    workspace.run_here(*options, machine=machine, dataset=dataset)
    workspace.run_here("--test_only", "--score", "MAHALA", "--use_ids", section, machine=machine, dataset=dataset)
    plain = train_plainly(directory, epochs=2, seed=13711, batch_size=64, clips=clips)
    model = machine if section == "00" else f"{machine}_section_{section}"
    model_directory = workspace.models / "baseline/dev_data" / dataset / "seed13711" / model
    assert read_log(model_directory / "log.csv") == plain["log"]
    weights = torch.load(model_directory / "model.pth", weights_only=True)
    for name, values in plain["network"].state_dict().items():
        assert torch.equal(weights[name], values), name
    for name, is_target in (("cov_source", False), ("cov_target", True)):
        np.testing.assert_allclose(weights[name], plain["covariances"][is_target], rtol=1e-4, atol=1e-4)
    parts = ("test", "source_test", "target_test")
    test_clips = sorted(path for part in parts for path in directory.glob(f"{part}/{clips}"))
    test_clips.sort(key=lambda path: "anomaly" in path.name)
    for score, tolerance in (("MSE", 1e-6), ("MAHALA", 1e-4)):
        results = workspace.results / "dev_data" / f"baseline_{score}" / dataset / "seed13711"
        scores = read_column(results / f"anomaly_score_{machine}_section_{section}_test.csv")
        assert list(scores) == [path.name for path in test_clips]
        assert list(scores.values()) == pytest.approx(list(plain_scores(plain, test_clips, score)), rel=tolerance)


def test_result_does_not_depend_on_the_number_of_cores(tmp_path, demo_data, trained):
    workspace = Workspace(tmp_path, demo_data)
    assert workspace.train_py("--epochs", "3", "--train_only", OMP_NUM_THREADS="2").returncode == 0
    assert read_log(workspace.model() / "log.csv") == read_log(trained.model() / "log.csv")


def test_split_draws_what_was_published():
    """Values that the published baseline drew from 6832 vectors with seed 13711."""
    np.random.seed(13711)
    train, valid = split_vectors(6832, 0.1)
    assert (len(train), len(valid)) == (6148, 684)
    assert train[:8].tolist() == [3637, 2005, 4939, 3536, 2434, 4991, 101, 5464]
    assert valid[:8].tolist() == [5504, 3391, 5123, 2121, 1836, 2575, 314, 2215]


def test_batches_are_what_was_published():
    """The first vectors of the first two epochs, drawn by the published baseline after it had made its network."""
    from networks import make_network

    np.random.seed(13711)
    torch.manual_seed(13711)
    train, valid = split_vectors(6832, 0.1)
    make_network("DCASE2023T2-AE", 640, 128)
    first = draw_pass(train, shuffle=True)
    assert first[:8].tolist() == [3027, 5889, 78, 450, 5744, 6629, 1787, 3301]
    assert first[-4:].tolist() == [2809, 6684, 3625, 1016]
    assert draw_pass(valid, shuffle=False) is valid
    assert draw_pass(train, shuffle=True)[:4].tolist() == [1839, 1086, 3157, 4982]


def test_vectors_are_equal_to_the_last_bit(demo_data, plain):
    config = load_config(["--dataset", "DCASE2024T2fan", "-d"])
    clips = find_clips(find_machine("DCASE2024T2fan", "dev"), demo_data, "train", ("00",))
    log_mels = load_log_mels(clips, config, 1, demo_data / "cache")
    vectors = Vectors(log_mels, clips, config.frames, config.frame_hop_length, torch.device("cpu"))
    expected = torch.from_numpy(np.stack([vector for vector, _ in plain["items"]]))
    assert torch.equal(vectors[torch.arange(len(vectors))], expected)
    assert vectors.is_target.tolist() == [is_target for _, is_target in plain["items"]]
    assert torch.equal(torch.cat(list(vectors.per_clip())), expected)

    hop = Vectors(log_mels, clips, config.frames, 3, torch.device("cpu"))
    per_clip = [clip[::3] for clip in vectors.per_clip()]  # every third vector of each clip
    assert torch.equal(torch.cat(list(hop.per_clip())), torch.cat(per_clip))


def test_weights_of_the_published_baseline_score_without_its_other_files(tmp_path, trained):
    """A bare state dict: scores as ever, no decisions, and a word about it."""
    workspace = Workspace(tmp_path, trained.data)
    workspace.model().mkdir(parents=True)
    (workspace.model() / "model.pth").write_bytes((trained.model() / "model.pth").read_bytes())
    finished = workspace.train_py("--test_only")
    assert finished.returncode == 0
    assert "config.yaml is missing" in finished.stderr
    assert "no decisions" in finished.stderr
    name = "anomaly_score_fan_section_00_test.csv"
    assert (workspace.result() / name).read_bytes() == (trained.result() / name).read_bytes()
    assert not list(workspace.result().glob("decision_*"))
