"""Contributions to an anomaly score, the plots of reconstructions, and the ROC curves."""

import csv
import re
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile
import torch
from conftest import RAW, Workspace, write_wav

from config import BaselineError, load_config
from datasets.catalog import find_machine, machine_of_path
from datasets.clips import parse_clip
from datasets.frames import sum_by_frame
from datasets.log_mel import band_centers
from networks import make_network
from networks.scores import SCORES, contributions
from tools import plot_reconstruction
from tools.plot_reconstruction import model_paths, ranked_clips, ranked_clips_of_run, reconstruct
from tools.results.runs import Run
from tools.results.score_files import SectionScores
from tools.training.console import run_command
from tools.training.model_files import load_model
from tools.training.paths import run_paths

P, M, K = 5, 4, 30
GENERATOR = torch.Generator().manual_seed(0)
FAN = ("--dataset", "DCASE2024T2fan", "-d")


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
    found = contributions(SCORES[name](network), residuals)
    assert found.shape == (K, P * M)
    assert float(found.sum()) == pytest.approx(float(SCORES[name](network)(residuals)), rel=1e-5)
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
    # A score of the first degree, which depends on the largest error only; a clip without any error
    residuals = torch.tensor([[1.0, -3.0], [2.0, 0.5]])
    assert contributions(lambda r: r.abs().max(), residuals).tolist() == [[0, 3], [0, 0]]
    assert contributions(lambda r: r.square().mean(), torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("score", [lambda r: (r > 1).sum(), lambda r: torch.tensor(1.0), lambda r: 1.0])
def test_a_score_without_a_derivative_is_an_error(score):
    with pytest.raises(BaselineError, match="contributions to the score need its derivative"):
        contributions(score, torch.randn(K, P * M))


def test_sum_by_frame():
    values = torch.arange(3 * 4, dtype=torch.float32).reshape(3, 4)  # K = 3, P = 2, M = 2
    assert sum_by_frame(values, 2, 4, 1).tolist() == [[0, 1], [2 + 4, 3 + 5], [6 + 8, 7 + 9], [10, 11]]
    assert sum_by_frame(values, 2, 8, 3).tolist()[2] == [0, 0]  # the frame between two vectors


def test_band_centers_are_where_the_filters_are_largest():
    import librosa

    config = load_config([*FAN, "--n_fft", "16384"])
    filters = librosa.filters.mel(sr=16000, n_fft=16384, n_mels=128)
    highest = np.fft.rfftfreq(16384, 1 / 16000)[filters.argmax(axis=1)]
    np.testing.assert_allclose(band_centers(16000, config), highest, atol=16000 / 16384)


def test_place_of_a_clip_gives_its_machine_type():
    place = "anywhere/dcase2022t2/eval_data/raw/fan/source_test/section_03_0000.wav"
    assert machine_of_path(Path(place)) == find_machine("DCASE2022T2fan", "eval")
    for other in ("a.wav", "/a.wav", place.replace("fan", "Fan"), place.replace("eval_data", "x_data")):
        assert machine_of_path(Path(other)) is None


def draw(workspace, *arguments):
    return run_command(lambda: plot_reconstruction.main([*map(str, arguments), *workspace.options]))


def read_scores(path):
    return {name: float(value) for name, value in csv.reader(path.open())}


@pytest.fixture
def tested(tmp_path, trained):
    """The models of `trained`, and a copy of its results."""
    workspace = Workspace(tmp_path, trained.data)
    workspace.models = trained.models
    shutil.copytree(trained.results, workspace.results)
    return workspace


@pytest.mark.parametrize("score", SCORES)
def test_plot_of_a_clip(tested, score, capsys):
    """Its place names the machine type; the score is that of the test, and so is its rank."""
    clip = tested.clip("section_00_source_test_anomaly_0001*")
    assert draw(tested, clip, "--score", score) == 0
    scores = read_scores(tested.result(score) / "anomaly_score_fan_section_00_test.csv")
    rank = sorted(scores.values(), reverse=True).index(scores[clip.name]) + 1
    pattern = rf"{score} {scores[clip.name]:.5g}, decision threshold \S+, rank {rank} of {len(scores)} -> "
    assert re.match(pattern, capsys.readouterr().out)
    plot = tested.result(score) / "reconstruction_fan" / f"{clip.stem}.png"
    assert matplotlib.image.imread(plot).shape[:2] == (1650, 875)  # 3.5 inches wide, 250 dpi


@pytest.mark.parametrize("score", ["MSE", "MAHALA"])
def test_what_a_plot_shows(tested, score):
    """Reconstruction and error are those of the frames; contributions add up to the score."""
    config = load_config([*FAN, "--score", score, *tested.options])
    machine = find_machine("DCASE2024T2fan", "dev")
    clip = parse_clip(tested.clip("section_00_target_test_normal_0000*"))
    model = load_model(config, machine, model_paths(config, machine, "00"))
    shown = reconstruct(clip, None, config, model, None)
    log_mel = torch.from_numpy(shown.log_mel)
    with torch.no_grad():
        reconstructed = model.network(log_mel.flatten().unfold(0, 640, 128)).view(-1, 5, 128)
    t = 10  # this frame is the last of vector 6 and the first of vector 10
    rows = torch.stack([reconstructed[t - p, p] for p in range(5)])
    np.testing.assert_allclose(shown.reconstruction[t], rows.mean(dim=0), rtol=1e-5)
    np.testing.assert_allclose(shown.squared_error[t], (rows - log_mel[t]).square().mean(), rtol=1e-4)
    np.testing.assert_allclose(shown.reconstruction[0], reconstructed[0, 0], rtol=1e-5)
    scores = read_scores(tested.result(score) / "anomaly_score_fan_section_00_test.csv")
    assert shown.contribution.sum() == pytest.approx(scores[clip.name], rel=1e-5)
    assert shown.shares.sum() == pytest.approx(100)
    assert (shown.frame_rate, shown.score_name) == (16000 / 512, score)
    # Of every seventh vector: two of seven frames are in none
    shown = reconstruct(clip, None, replace(config, frame_hop_length=7), model, None)
    assert np.isnan(shown.reconstruction).all(axis=1)[:14].tolist() == 2 * [*5 * [False], True, True]
    assert not shown.contribution[5:7].any()


def test_ranked_clips(tested, capsys):
    """Of normal and of anomalous clips the highest and the lowest."""
    assert draw(tested, *FAN, "--ranked", 1, "--score", "MAHALA") == 0
    scores = read_scores(tested.result("MAHALA") / "anomaly_score_fan_section_00_test.csv")
    expected = set()
    for label in ("normal", "anomaly"):
        falling = sorted((name for name in scores if f"_{label}_" in name), key=scores.get, reverse=True)
        expected |= {falling[0], falling[-1]}
    assert {f"{path.stem}.wav" for path in (tested.result("MAHALA") / "reconstruction_fan").iterdir()} == expected
    assert "rank 1 of 16" in capsys.readouterr().out


def test_ranked_clips_without_labels():
    clips = [parse_clip(Path(f"section_00_{number:04d}.wav")) for number in range(5)]
    result = SectionScores("00", clips, [1.0, 5.0, 2.0, 4.0, 3.0], None)
    assert ranked_clips([result], 1) == [clips[1], clips[0]]
    assert set(ranked_clips([result], 4)) == set(clips)


@pytest.mark.parametrize(("suffix", "start"), [(".pdf", b"%PDF"), (".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_any_clip_any_format(tested, tmp_path, suffix, start):
    clip, plot = write_wav(tmp_path / "recording of mine.wav", seconds=2, channels=2), tmp_path / f"plot{suffix}"
    assert draw(tested, clip, *FAN, "--channel", "2", "--output", plot, "--frame_hop_length", 1) == 0
    assert plot.read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("arguments", "error", "status"),
    [
        ("", "name either clips, or how many of the best and the worst", 2),
        ("{other}", "--dataset (dataset and machine type, such as DCASE2024T2fan) is required", 2),
        ("--dataset DCASE2024T2fan -d", "name either clips, or how many", 2),
        ("{clip} --ranked 1", "name either clips, or how many", 2),
        ("--dataset DCASE2024T2fan -d --ranked 0", "expected a whole number from 1", 2),
        ("{clip} {clip} --output a.png", "takes one clip", 2),
        ("{clip} --output a.jpg", "ends in .png or .pdf or .svg", 2),
        ("{clip} {clip}", "another clip's plot would have the same name", 2),
        ("{clip} {valve}", "clips of several machine types: DCASE2024T2fan, DCASE2024T2valve", 2),
        ("{valve}", "no trained model", 1),
        ("{clip} --score MAHLA", "unknown score 'MAHLA'. Did you mean 'MAHALA'?", 2),
        ("{clip} --frames 4", "was trained with --frames 5 (now 4)", 1),
        ("missing.wav --dataset DCASE2024T2fan -d", "missing.wav: no such file.", 2),
        ("--dataset DCASE2024T2valve -d --ranked 1", "no anomaly scores of valve there. Run ./02a_test", 1),
    ],
)
def test_wrong_arguments(tested, capsys, arguments, error, status):
    clip, valve = tested.clip("*anomaly_0001*"), tested.clip("*anomaly_0001*", "valve")
    places = {"other": write_wav(tested.directory / "a.wav"), "clip": clip, "valve": valve}
    assert draw(tested, *arguments.format(**places).split()) == status
    message = capsys.readouterr().err
    assert error in message
    assert "Traceback" not in message


def test_a_bad_clip_does_not_stop_the_others(tested, tmp_path, capsys):
    good, folder = tested.clip("*anomaly_0001*"), tmp_path / RAW / "fan" / "test"
    slow, bad = write_wav(folder / "section_00_0001.wav", rate=8000), folder / "section_00_0002.wav"
    bad.write_bytes(b"RIFF")
    assert draw(tested, bad, slow, good) == 1
    errors = capsys.readouterr().err
    assert f"{bad}: not a readable wav file" in errors
    assert f"{slow}: 8000 Hz, but the model was trained at 16000 Hz" in errors
    assert (tested.result() / "reconstruction_fan" / f"{good.stem}.png").exists()


def test_first_of_two_channels(tmp_path, tested):
    """For clips of a dataset, as in training; for other clips the user must say which."""
    clip = tested.clip("section_00_source_test_anomaly_0001*")
    samples, rate = soundfile.read(clip, dtype="int16")
    stereo = tmp_path / RAW / "fan" / "test" / clip.name
    stereo.parent.mkdir(parents=True)
    soundfile.write(stereo, np.stack([samples, samples[::-1]], axis=1), rate)
    plots = []
    for path in (clip, stereo):
        assert draw(tested, path, "--output", tmp_path / "plot.png") == 0
        plots.append(matplotlib.image.imread(tmp_path / "plot.png"))
    np.testing.assert_array_equal(*plots)
    shutil.copy(stereo, tmp_path / "stereo.wav")
    assert draw(tested, tmp_path / "stereo.wav", *FAN) == 1


def test_silence_and_a_score_of_zero(tested, tmp_path, monkeypatch):
    """A hinge that the clip does not reach: there are no shares."""
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000), 16000)
    assert draw(tested, tmp_path / "silence.wav", *FAN) == 0
    monkeypatch.setitem(SCORES, "MSE", lambda network: lambda residuals: (residuals.abs() - 1e6).clamp(min=0).sum())
    assert draw(tested, tested.clip("section_00_source_test_anomaly_0001*")) == 0


def test_training_clips_have_no_rank_and_a_directory_of_their_own(tested, capsys):
    clip = next((tested.data / RAW / "fan" / "train").glob("*.wav"))
    assert draw(tested, clip) == 0
    assert "rank" not in capsys.readouterr().out
    assert (tested.result() / "reconstruction_fan" / "others" / f"train_{clip.stem}.png").exists()


def test_scores_of_another_model_give_no_rank(tested, capsys):
    """As after a training that was not tested yet."""
    path = tested.result() / "anomaly_score_fan_section_00_test.csv"
    path.write_text("".join(f"{name},{value + 1}\n" for name, value in read_scores(path).items()))
    clip = tested.clip("section_00_source_test_anomaly_0001*")
    assert draw(tested, clip) == 0
    captured = capsys.readouterr()
    assert "rank" not in captured.out
    assert f"warning: {clip.name}: the last test gave " in captured.err


@pytest.mark.filterwarnings("ignore:Glyph")  # the font has no Japanese
@pytest.mark.parametrize("name", ["$\\foo$ %_^.wav", 240 * "x" + ".wav", "録音.wav"])
def test_names_of_any_kind(tested, tmp_path, name):
    clip = write_wav(tmp_path / "clips" / name, seconds=1)
    assert draw(tested, clip, *FAN) == 0
    plot = next((tested.result() / "reconstruction_fan" / "others").iterdir())
    assert plot.name.startswith(f"clips_{clip.stem[:20]}")


def test_sections_with_models_of_their_own(tmp_path):
    """2022: a section's own model scores its clips; with --use_ids only clips of these sections are plotted."""
    arguments = ["--dataset", "DCASE2022T2fan", "-d", *Workspace(tmp_path).options]
    config, config_of_01 = load_config(arguments), load_config([*arguments, "--use_ids", "1"])
    machine = find_machine("DCASE2022T2fan", "dev")
    own_model = run_paths(config, machine, ("01",)).model
    own_model.parent.mkdir(parents=True)
    own_model.touch()
    names = [model_paths(config, machine, section).model_name for section in ("00", "01", "")]
    assert names == ["fan", "fan_section_01", "fan"]
    assert model_paths(config_of_01, machine, "01").model == own_model
    with pytest.raises(BaselineError, match="section 00 is not one of --use_ids 1."):
        model_paths(config_of_01, machine, "00")
    for section in ("00", "01"):
        path = run_paths(config, machine, ()).anomaly_scores(section)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"section_{section}_source_test_normal_0000.wav,1.5\n")
    for settings, sections in ((config, ["00", "01"]), (config_of_01, ["01"])):
        clips = ranked_clips_of_run(Run(settings, machine.dataset), machine, 1)
        assert [clip.section for clip in clips] == sections


def test_roc_plot_of_a_test(trained):
    width, height = struct.unpack(">II", (trained.result() / "roc_fan.png").read_bytes()[16:24])
    assert width == 875
    assert height > 700
