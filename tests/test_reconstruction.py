"""Contributions to an anomaly score, the pictures of reconstructions, and the ROC curves."""

import csv
import shutil
import struct
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile
import torch
from conftest import RAW, Workspace, write_wav
from test_other_years import names_of_later_years, write_clips

from config import BaselineError, load_config
from datasets.catalog import find_machine, machine_of_path
from datasets.clips import parse_clip
from datasets.frames import sum_by_frame
from datasets.log_mel import band_centers
from networks import make_network
from networks.scores import SCORES, contributions
from tools import plot_reconstruction
from tools.results.metrics import roc_curve
from tools.results.score_files import SectionScores
from tools.training.console import run_command

P, M, K = 5, 4, 30
GENERATOR = torch.Generator().manual_seed(0)


@pytest.fixture
def network():
    """With covariances that are not diagonal, and differ between the domains."""
    made = make_network("DCASE2023T2-AE", P * M, M)
    for covariance, scale in ((made.cov_source, 1.0), (made.cov_target, 1.1)):
        root = torch.randn(M, M, generator=GENERATOR)
        covariance.data = scale * (root @ root.T + torch.eye(M))
    return made


@pytest.mark.parametrize("name", SCORES)
def test_contributions_add_up_to_the_score(network, name):
    residuals = torch.randn(K, P * M, generator=GENERATOR)
    score = SCORES[name](network)
    found = contributions(score, residuals)
    assert found.shape == (K, P * M)
    assert float(found.sum()) == pytest.approx(float(score(residuals)), rel=1e-5)
    assert not residuals.requires_grad


def test_contributions_by_hand(network):
    residuals = torch.randn(K, P * M, generator=GENERATOR)
    squares = residuals.double().square() / residuals.numel()
    torch.testing.assert_close(contributions(SCORES["MSE"](network), residuals), squares, rtol=1e-5, atol=1e-9)
    rows = residuals.double().view(-1, M)
    mean = rows.mean(dim=0)
    inverses = [torch.linalg.inv(c.double()) for c in (network.cov_source, network.cov_target)]
    inverse = min(inverses, key=lambda inverse: mean @ inverse @ mean)
    expected = (rows * (inverse @ mean) / len(rows)).view(K, P * M)
    torch.testing.assert_close(contributions(SCORES["MAHALA"](network), residuals), expected, rtol=1e-4, atol=1e-8)


def test_contributions_to_other_scores():
    """One of the first degree, which the largest error alone makes; and a clip without any error."""
    residuals = torch.tensor([[1.0, -3.0], [2.0, 0.5]])
    found = contributions(lambda r: r.abs().max(), residuals)
    assert found.tolist() == [[0, 3], [0, 0]]
    assert contributions(lambda r: r.square().mean(), torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("score", [lambda r: (r > 1).sum(), lambda r: torch.tensor(1.0), lambda r: 1.0])
def test_a_score_without_a_derivative_is_said(score):
    with pytest.raises(BaselineError, match="the score has no derivative"):
        contributions(score, torch.randn(K, P * M))


def test_sum_by_frame():
    values = torch.arange(3 * 4, dtype=torch.float32).reshape(3, 4)  # K = 3, P = 2, M = 2
    assert sum_by_frame(values, 2, 4, 1).tolist() == [[0, 1], [2 + 4, 3 + 5], [6 + 8, 7 + 9], [10, 11]]
    assert sum_by_frame(values, 2, 8, 3).tolist()[2] == [0, 0]  # the frame between two vectors


def test_band_centers_are_where_the_filters_are_largest():
    import librosa

    config = load_config(["--dataset", "DCASE2024T2fan", "-d", "--n_fft", "16384"])
    filters = librosa.filters.mel(sr=16000, n_fft=16384, n_mels=128)
    highest = np.fft.rfftfreq(16384, 1 / 16000)[filters.argmax(axis=1)]
    np.testing.assert_allclose(band_centers(16000, config), highest, atol=16000 / 16384)


def test_place_of_a_clip_says_its_machine_type():
    clip = Path("anywhere/dcase2022t2/eval_data/raw/fan/source_test/section_03_0000.wav")
    assert machine_of_path(clip) == find_machine("DCASE2022T2fan", "eval")
    for other in (
        "a.wav",
        "/a.wav",
        "dcase2022t2/eval_data/raw/Fan/test/a.wav",
        "dcase2022t2/x_data/raw/fan/test/a.wav",
    ):
        assert machine_of_path(Path(other)) is None


def draw(workspace, *arguments):
    return run_command(lambda: plot_reconstruction.main([*map(str, arguments), *workspace.options]))


@pytest.fixture
def tested(tmp_path, trained):
    """The models and results of `trained`, to be written beside."""
    workspace = Workspace(tmp_path, trained.data)
    workspace.models = trained.models
    shutil.copytree(trained.results, workspace.results)
    return workspace


@pytest.mark.parametrize("score", SCORES)
def test_picture_of_a_clip(tested, score, capsys):
    """Its place names the machine type; the score is that of the test, and so is its rank."""
    clip = tested.clip("section_00_source_test_anomaly_0001*")
    assert draw(tested, clip, "--score", score) == 0
    scores = dict(csv.reader((tested.result(score) / "anomaly_score_fan_section_00_test.csv").open()))
    value = float(scores[clip.name])
    rank = 1 + sum(float(other) > value for other in scores.values())
    said = capsys.readouterr().out
    assert said.startswith(f"{score} {value:.5g}, decision threshold ")
    assert f", rank {rank} of {len(scores)} -> " in said
    picture = tested.result(score) / "reconstruction_fan" / f"{clip.stem}.png"
    assert matplotlib.image.imread(picture).shape[:2] == (1650, 875)  # 3.5 inches wide, 250 dpi


def test_what_a_picture_shows(tested):
    """Reconstruction and error are those of the frames; contributions add up to the score."""
    config = load_config(["--dataset", "DCASE2024T2fan", "-d", *tested.options])
    machine = find_machine("DCASE2024T2fan", "dev")
    clip = parse_clip(tested.clip("section_00_target_test_normal_0000*"))
    models = plot_reconstruction.Models(config, machine)
    shown = plot_reconstruction.reconstruct(clip, None, models, None)
    network = models.load("00").network
    log_mel = torch.from_numpy(shown.log_mel)
    x = log_mel.flatten().unfold(0, 640, 128)
    with torch.no_grad():
        reconstructed = network(x).view(-1, 5, 128)
    t = 10  # this frame is the last of vector 6 and the first of vector 10
    of_frame = torch.stack([reconstructed[t - p, p] for p in range(5)])
    np.testing.assert_allclose(shown.reconstruction[t], of_frame.mean(dim=0), rtol=1e-5)
    np.testing.assert_allclose(shown.squared_error[t], (of_frame - log_mel[t]).square().mean(), rtol=1e-4)
    np.testing.assert_allclose(shown.reconstruction[0], reconstructed[0, 0], rtol=1e-5)
    scores = dict(csv.reader((tested.result() / "anomaly_score_fan_section_00_test.csv").open()))
    assert shown.contribution.sum() == pytest.approx(float(scores[clip.name]), rel=1e-5)
    assert shown.frame_rate == 16000 / 512


def test_ranked_clips(tested, capsys):
    """Of normal and of anomalous clips the highest and the lowest."""
    assert draw(tested, "--dataset", "DCASE2024T2fan", "-d", "--ranked", 1, "--score", "MAHALA") == 0
    scores = {
        name: float(value)
        for name, value in csv.reader((tested.result("MAHALA") / "anomaly_score_fan_section_00_test.csv").open())
    }
    expected = set()
    for label in ("normal", "anomaly"):
        falling = sorted((name for name in scores if f"_{label}_" in name), key=scores.get, reverse=True)
        expected |= {falling[0], falling[-1]}
    drawn = {path.stem + ".wav" for path in (tested.result("MAHALA") / "reconstruction_fan").iterdir()}
    assert drawn == expected
    assert "rank 1 of 16" in capsys.readouterr().out


def test_ranked_clips_without_labels():
    clips = [parse_clip(Path(f"section_00_{number:04d}.wav")) for number in range(5)]
    result = SectionScores("00", clips, [1.0, 5.0, 2.0, 4.0, 3.0], None)
    chosen = plot_reconstruction.ranked_clips([result], 1)
    assert [clip.name for clip in chosen] == ["section_00_0001.wav", "section_00_0000.wav"]
    assert len(plot_reconstruction.ranked_clips([result], 4)) == 5


@pytest.mark.parametrize("suffix", [".pdf", ".svg", ".png"])
def test_any_clip_any_form(tested, tmp_path, suffix):
    clip = write_wav(tmp_path / "recording of mine.wav", seconds=2, channels=2)
    arguments = [clip, "--dataset", "DCASE2024T2fan", "-d", "--channel", "2", "--output", tmp_path / f"picture{suffix}"]
    assert draw(tested, *arguments, "--frame_hop_length", 1) == 0
    start = {".pdf": b"%PDF", ".svg": b"<?xml", ".png": b"\x89PNG"}[suffix]
    assert (tmp_path / f"picture{suffix}").read_bytes().startswith(start)


def test_frames_in_no_vector(tmp_path, trained):
    """Every seventh vector: two of seven frames are in none."""
    workspace = Workspace(tmp_path, trained.data)
    workspace.run_here("--epochs", "1", "--frame_hop_length", "7", "--batch_size", "32", "--train_only")
    clip = workspace.clip("section_00_source_test_anomaly_0001*")
    assert draw(workspace, clip, "--frame_hop_length", 7) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "status"),
    [
        ([], "name either clips, or how many of the best and the worst", 2),
        (["{other}"], "--dataset (dataset and machine type, such as DCASE2024T2fan) is required", 2),
        (["--dataset", "DCASE2024T2fan", "-d"], "name either clips, or how many", 2),
        (["{clip}", "--ranked", "1"], "name either clips, or how many", 2),
        (["--dataset", "DCASE2024T2fan", "-d", "--ranked", "0"], "expected a whole number from 1", 2),
        (["{clip}", "{clip}", "--output", "a.png"], "it names the picture of one clip", 2),
        (["{clip}", "--output", "a.jpg"], "ends in .png or .pdf or .svg", 2),
        (["{clip}", "{valve}"], "clips of several machine types: DCASE2024T2fan, DCASE2024T2valve", 2),
        (["{valve}"], "no trained model", 1),
        (["{clip}", "--score", "MAHLA"], "unknown score 'MAHLA'. Did you mean 'MAHALA'?", 2),
        (["{clip}", "--frames", "4"], "was trained with --frames 5 (now 4)", 1),
        (["missing.wav", "--dataset", "DCASE2024T2fan", "-d"], "missing.wav: no such file.", 2),
        (
            ["--dataset", "DCASE2024T2valve", "-d", "--ranked", "1"],
            "no anomaly scores of valve there. Run ./02a_test",
            1,
        ),
    ],
)
def test_wrong_arguments(tested, capsys, arguments, error, status):
    places = {
        "other": write_wav(tested.directory / "a.wav"),
        "clip": tested.clip("*anomaly_0001*"),
        "valve": tested.clip("*anomaly_0001*", "valve"),
    }
    assert draw(tested, *(argument.format(**places) for argument in arguments)) == status
    said = capsys.readouterr().err
    assert error in said
    assert "Traceback" not in said


def test_a_bad_clip_costs_no_other(tested, tmp_path, capsys):
    good, bad = tested.clip("*anomaly_0001*"), tmp_path / "dcase2024t2/dev_data/raw/fan/test/section_00_0001.wav"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"RIFF")
    slow = write_wav(bad.with_name("section_00_0002.wav"), rate=8000)
    assert draw(tested, bad, slow, good) == 1
    said = capsys.readouterr().err
    assert f"{bad}: not a readable wav file" in said
    assert f"{slow}: 8000 Hz, but the model was trained at 16000 Hz" in said
    assert (tested.result() / "reconstruction_fan" / f"{good.stem}.png").exists()


def test_first_of_two_channels(tmp_path, trained, tested):
    """As the baseline takes it, for clips of a dataset with two."""
    workspace = Workspace(tmp_path / "stereo")
    directory = workspace.data / RAW / "fan" / "test"
    directory.mkdir(parents=True)
    original = tested.clip("section_00_source_test_anomaly_0001*")
    samples, rate = soundfile.read(original, dtype="int16")
    soundfile.write(directory / original.name, np.stack([samples, samples[::-1]], axis=1), rate)
    workspace.models = trained.models
    pictures = []
    for each in (tested, workspace):
        clip = each.clip("section_00_source_test_anomaly_0001*")
        assert draw(each, clip, "--output", tmp_path / "picture.png") == 0
        pictures.append(matplotlib.image.imread(tmp_path / "picture.png"))
    np.testing.assert_array_equal(pictures[0][200:], pictures[1][200:])  # below the title, which has the rank


def test_a_score_of_zero_is_drawn(tested, monkeypatch):
    """A hinge that the clip does not reach: there are no shares."""
    monkeypatch.setitem(SCORES, "MSE", lambda network: lambda residuals: (residuals.abs() - 1e6).clamp(min=0).sum())
    assert draw(tested, tested.clip("section_00_source_test_anomaly_0001*")) == 0


def test_training_clips_have_no_rank_and_pictures_of_their_own(tested, capsys):
    clip = next((tested.data / RAW / "fan" / "train").glob("*.wav"))
    assert draw(tested, clip) == 0
    assert "rank" not in capsys.readouterr().out
    assert (tested.result() / "reconstruction_fan" / "others" / f"train_{clip.stem}.png").exists()
    copy = tested.directory / "train" / clip.name
    copy.parent.mkdir()
    shutil.copy(clip, copy)
    assert draw(tested, copy, clip, "--dataset", "DCASE2024T2fan", "-d") == 2
    assert "another clip's picture would have the same name" in capsys.readouterr().err


def test_scores_of_another_model_give_no_rank(tested, capsys):
    """As after a training that was not tested yet."""
    path = tested.result() / "anomaly_score_fan_section_00_test.csv"
    path.write_text("".join(f"{name},{float(value) + 1}\n" for name, value in csv.reader(path.open())))
    clip = tested.clip("section_00_source_test_anomaly_0001*")
    assert draw(tested, clip) == 0
    said = capsys.readouterr()
    assert "rank" not in said.out
    assert f"warning: {clip.name}: the last test gave " in said.err


@pytest.mark.filterwarnings("ignore:Glyph")  # the font has no Japanese
@pytest.mark.parametrize("name", ["$\\foo$ %_^.wav", 240 * "x" + ".wav", "録音.wav"])
def test_names_of_any_kind(tested, tmp_path, name):
    clip = write_wav(tmp_path / "clips" / name, seconds=1)
    assert draw(tested, clip, "--dataset", "DCASE2024T2fan", "-d") == 0
    picture = next((tested.result() / "reconstruction_fan" / "others").iterdir())
    assert picture.name.startswith(f"clips_{clip.stem[:20]}")


def test_silence(tested, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000), 16000)
    assert draw(tested, tmp_path / "silence.wav", "--dataset", "DCASE2024T2fan", "-d") == 0


def test_models_of_sections(tmp_path, capsys):
    """2022: each section's clips with its model; --use_ids draws those of its sections only."""
    workspace = Workspace(tmp_path)
    directory = workspace.data / "dcase2022t2" / "dev_data" / "raw" / "fan"
    write_clips(directory, names_of_later_years(["00", "01", "02"]), 1)
    options = ["--epochs", "1", "--batch_size", "16"]
    for section in ("0", "1"):
        workspace.run_here(*options, "--use_ids", section, machine="fan", dataset="DCASE2022T2")
    arguments = ["--dataset", "DCASE2022T2fan", "-d", "--ranked", "1"]
    pictures = workspace.results / "dev_data/baseline_MSE/DCASE2022T2/seed13711/reconstruction_fan"
    assert draw(workspace, *arguments, "--use_ids", "1") == 0
    assert {path.name[:10] for path in pictures.iterdir()} == {"section_01"}
    scores = workspace.results / "dev_data/baseline_MSE/DCASE2022T2/seed13711"
    for section in ("00", "01"):
        clip = next(directory.glob(f"test/section_{section}*"))
        values = dict(csv.reader((scores / f"anomaly_score_fan_section_{section}_test.csv").open()))
        assert draw(workspace, clip) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith(f"MSE {float(values[clip.name]):.5g}, ")
    clip = next(directory.glob("test/section_02*"))
    assert draw(workspace, clip) == 1
    assert "no trained model" in capsys.readouterr().err
    assert draw(workspace, clip, "--use_ids", "1") == 1
    assert "section 02 is not one of --use_ids 1." in capsys.readouterr().err


def test_roc_plot_of_a_test(trained):
    width, height = struct.unpack(">II", (trained.result() / "roc_fan.png").read_bytes()[16:24])
    assert width == 875
    assert height > 700


@pytest.mark.parametrize("digits", [0, 5])
def test_roc_curve_is_that_of_scikit_learn(digits):
    from sklearn.metrics import roc_curve as expected

    generator = np.random.default_rng(0)
    truth, scores = generator.random(60) < 0.4, np.round(2 * generator.standard_normal(60), digits)
    for found, wanted in zip(roc_curve(truth, scores), expected(truth, scores), strict=False):
        np.testing.assert_allclose(found, wanted)
