"""Contributions to an anomaly score, the plots of reconstructions, and the ROC curves."""

import csv
import re
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile
import torch
from conftest import RAW, Workspace, write_test, write_wav

from config import BaselineError, load_config
from datasets.catalog import find_dataset, find_machine, machine_of_path
from datasets.clips import parse_clip
from datasets.log_mel import band_centers
from networks import make_network
from networks.scores import SCORES, contributions
from tools import plot_reconstruction
from tools.plot_reconstruction import model_paths, ranked_clips, reconstruct
from tools.results.runs import Run
from tools.results.score_files import SectionScores
from tools.training.console import run_command
from tools.training.paths import run_paths
from tools.training.trained_model import load_model

P, M, K = 5, 4, 30
FAN = ("--dataset", "DCASE2024T2fan", "-d")
CLIP = "section_00_source_test_anomaly_0001*"


def test_contributions_by_hand():
    network, generator = make_network("DCASE2023T2-AE", P * M, M), torch.Generator().manual_seed(0)
    for covariance, scale in ((network.cov_source, 1.0), (network.cov_target, 1.1)):
        root = torch.randn(M, M, generator=generator)
        covariance.data = scale * (root @ root.T + torch.eye(M))
    residuals = torch.randn(K, P * M, generator=generator)
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


@pytest.mark.parametrize("score", [lambda r: (r > 1).sum(), lambda r: 1.0])
def test_a_score_without_a_derivative_is_an_error(score):
    with pytest.raises(BaselineError, match="the score is not differentiable"):
        contributions(score, torch.randn(K, P * M))


def test_band_centers_are_where_the_filters_are_largest():
    import librosa

    filters = librosa.filters.mel(sr=16000, n_fft=16384, n_mels=128)
    highest = np.fft.rfftfreq(16384, 1 / 16000)[filters.argmax(axis=1)]
    np.testing.assert_allclose(band_centers(16000, load_config([*FAN])), highest, atol=16000 / 16384)


def test_place_of_a_clip_gives_its_machine_type():
    place = "anywhere/dcase2022t2/eval_data/raw/fan/source_test/section_03_0000.wav"
    assert machine_of_path(Path(place)) == find_machine("DCASE2022T2fan", "eval")
    for other in ("/a.wav", place.replace("fan", "Fan"), place.replace("eval_data", "x_data")):
        assert machine_of_path(Path(other)) is None


def draw(workspace, *arguments):
    return run_command(lambda: plot_reconstruction.main([*map(str, arguments), *workspace.options]))


def read_scores(workspace, score="MSE"):
    path = workspace.result(score) / "anomaly_score_fan_section_00_test.csv"
    return {name: float(value) for name, value in csv.reader(path.open())}


def names_of_plots(workspace, score="MSE"):
    return {path.name for path in (workspace.result(score) / "reconstruction_fan").rglob("*.png")}


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
    clip = tested.clip(CLIP)
    assert draw(tested, clip, "--score", score) == 0
    scores = read_scores(tested, score)
    rank = sorted(scores.values(), reverse=True).index(scores[clip.name]) + 1
    pattern = rf"{score} {scores[clip.name]:.5g}, decision threshold \S+, rank {rank} of {len(scores)} -> "
    assert re.match(pattern, capsys.readouterr().out)
    plot = tested.result(score) / "reconstruction_fan" / f"{clip.stem}.png"
    assert matplotlib.image.imread(plot).shape[:2] == (1650, 875)  # 3.5 inches wide, 250 dpi
    assert matplotlib.image.imread(tested.result(score) / "roc_fan.png").shape[1] == 875


@pytest.mark.parametrize("score", SCORES)
def test_what_a_plot_shows(tested, score):
    """Reconstruction and error are those of the frames; contributions add up to the score."""
    config, machine = load_config([*FAN, "--score", score, *tested.options]), find_machine("DCASE2024T2fan", "dev")
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
    assert shown.contribution.sum() == pytest.approx(read_scores(tested, score)[clip.name], rel=1e-5)
    assert shown.shares.sum() == pytest.approx(100)
    assert (shown.frame_rate, shown.score_name) == (16000 / 512, score)
    # Of every seventh vector: two of seven frames are in none
    shown = reconstruct(clip, None, replace(config, frame_hop_length=7), model, None)
    assert np.isnan(shown.reconstruction).all(axis=1)[:14].tolist() == 2 * [*5 * [False], True, True]
    assert not shown.contribution[5:7].any()


def test_ranked_clips(tested, capsys):
    """Of normal and of anomalous clips the highest and the lowest."""
    assert draw(tested, *FAN, "--ranked", 1, "--score", "MAHALA") == 0
    scores, expected = read_scores(tested, "MAHALA"), set()
    for label in ("normal", "anomaly"):
        falling = sorted((name for name in scores if f"_{label}_" in name), key=scores.get, reverse=True)
        expected |= {Path(falling[0]).with_suffix(".png").name, Path(falling[-1]).with_suffix(".png").name}
    assert names_of_plots(tested, "MAHALA") == expected
    assert "rank 1 of 16" in capsys.readouterr().out


def test_sections_with_models_of_their_own(tmp_path):
    """2022: a section's own model scores its clips; with --use_ids only clips of these sections are plotted."""
    arguments = ["--dataset", "DCASE2022T2fan", "-e", *Workspace(tmp_path).options]
    config, config_of_04 = load_config(arguments), load_config([*arguments, "--use_ids", "4"])
    machine = find_machine("DCASE2022T2fan", "eval")
    own_model = run_paths(config, machine, ("04",)).model
    own_model.parent.mkdir(parents=True)
    own_model.touch()
    names = [model_paths(config, machine, section).model_name for section in ("03", "04", "")]
    assert names == ["fan", "fan_section_04", "fan"]
    assert model_paths(config_of_04, machine, "04").model == own_model
    with pytest.raises(BaselineError, match="section 03 is not one of --use_ids 4."):
        model_paths(config_of_04, machine, "03")
    for section in ("03", "04"):
        clips = [parse_clip(Path(f"section_{section}_{k:04d}.wav")) for k in range(5)]
        paths = run_paths(config, machine, (section,))
        write_test(paths, SectionScores(section, clips, [1, 5, 2, 4, 3], None, 0.1))
    for settings, sections in ((config, ["03", "04"]), (config_of_04, ["04"])):
        clips = ranked_clips(Run(settings, machine.dataset), machine, 1)  # without labels: two of all
        assert [clip.name for clip in clips] == [f"section_{s}_{k}.wav" for s in sections for k in ("0001", "0000")]
        assert len(ranked_clips(Run(settings, machine.dataset), machine, 4)) == 5 * len(sections)


@pytest.mark.parametrize(
    ("arguments", "error", "status"),
    [
        ("", "give either CLIP or --ranked", 2),
        ("{other}", "--dataset (dataset and machine type, such as DCASE2024T2fan) is required", 2),
        ("{clip} --ranked 1", "give either CLIP or --ranked", 2),
        ("{clip} {clip} --output a.png", "needs one clip", 2),
        ("{clip} --output a.jpg", "ends in .png or .pdf or .svg", 2),
        ("{clip} --output {plot}", "mine.png exists", 1),
        ("{clip} {valve}", "clips of several machine types: DCASE2024T2fan, DCASE2024T2valve", 2),
        ("{valve}", "no trained model", 1),
        ("{clip} --score MAHLA", "unknown score 'MAHLA'. Did you mean 'MAHALA'?", 2),
        ("missing.wav --dataset DCASE2024T2fan -d", "missing.wav", 1),
        ("--dataset DCASE2024T2valve -d --ranked 1", "no anomaly scores of valve found. Run ./02a_test", 1),
    ],
)
def test_wrong_arguments(tested, capsys, arguments, error, status):
    places = {
        "other": write_wav(tested.directory / "a.wav"),
        "clip": tested.clip(CLIP),
        "plot": tested.directory / "mine.png",
    }
    places["plot"].write_text("mine")
    assert draw(tested, *arguments.format(**places, valve=tested.clip(CLIP, "valve")).split()) == status
    message = capsys.readouterr().err
    assert error in message
    assert "Traceback" not in message


def test_a_bad_clip_does_not_stop_the_others(tested, tmp_path, capsys):
    good, folder = tested.clip(CLIP), tmp_path / RAW / "fan" / "test"
    slow, bad = write_wav(folder / "section_00_0001.wav", rate=8000), folder / "section_00_0002.wav"
    bad.write_bytes(b"RIFF")
    assert draw(tested, bad, slow, good, good) == 1
    errors = capsys.readouterr().err
    assert f"{bad}: not a readable wav file" in errors
    assert f"{slow}: 8000 Hz, but the model was trained at 16000 Hz" in errors
    assert f"{good}: the plot of another clip has the same name" in errors
    assert names_of_plots(tested) == {f"{good.stem}.png"}


@pytest.mark.filterwarnings("ignore:Glyph")  # the font has no Japanese
@pytest.mark.parametrize(("suffix", "start"), [(".pdf", b"%PDF"), (".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_any_clip_any_format(tested, tmp_path, suffix, start):
    clip, plot = write_wav(tmp_path / "$\\foo$ %_^ 録音.wav", seconds=2, channels=2), tmp_path / f"plot{suffix}"
    for _ in range(2):  # its own plot is replaced
        assert draw(tested, clip, *FAN, "--channel", "2", "--output", plot, "--frame_hop_length", 1) == 0
    assert plot.read_bytes().startswith(start)


def test_first_of_two_channels(tmp_path, tested):
    """For clips of a dataset, as in training; for other clips the user must say which."""
    clip = tested.clip(CLIP)
    samples, rate = soundfile.read(clip, dtype="int16")
    stereo = tmp_path / RAW / "fan" / "test" / clip.name
    stereo.parent.mkdir(parents=True)
    soundfile.write(stereo, np.stack([samples, samples[::-1]], axis=1), rate)
    plots = []
    for path in (clip, stereo):
        assert draw(tested, path, "--output", tmp_path / "plot.png") == 0
        plots.append((tmp_path / "plot.png").read_bytes())
    assert plots[0] == plots[1]
    shutil.copy(stereo, tmp_path / "stereo.wav")
    assert draw(tested, tmp_path / "stereo.wav", *FAN) == 1


def test_silence_and_a_score_of_zero(tested, tmp_path, monkeypatch):
    """A hinge that the clip does not reach: there are no shares."""
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000), 16000)
    assert draw(tested, tmp_path / "silence.wav", *FAN) == 0
    monkeypatch.setitem(SCORES, "MSE", lambda network: lambda residuals: (residuals.abs() - 1e6).clamp(min=0).sum())
    assert draw(tested, tested.clip(CLIP)) == 0


def test_clips_without_a_rank(tested, capsys):
    """Training clips, whose plots have a directory of their own; scores of another model, not tested yet."""
    training_clip, clip = tested.clip("section_00_source_train_normal_0001*"), tested.clip(CLIP)
    config = load_config(["--dataset", "DCASE2024T2fan", "-d", *tested.options])
    run = Run(config, find_dataset("DCASE2024T2"))
    found = run.section(run.machines["fan"], "00")
    write_test(run.paths(run.machines["fan"]), replace(found, scores=[score + 1 for score in found.scores]))
    assert draw(tested, training_clip, clip) == 0
    captured = capsys.readouterr()
    assert ", rank" not in captured.out
    assert f"warning: {clip.name}: no rank, because the last test gave " in captured.err
    assert names_of_plots(tested) == {f"train_{training_clip.stem}.png", f"{clip.stem}.png"}
    assert (tested.result() / "reconstruction_fan" / "others").exists()
