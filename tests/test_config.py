"""baseline.yaml and the command line: what is read, and what is refused in which words."""

from pathlib import Path

import pytest

from config import DEFAULTS_FILE, ROOT, UsageError, load_config, read_defaults
from tools.training.paths import RunPaths

MINIMUM = ["--dataset", "DCASE2024T2fan", "-d"]


def with_line(tmp_path: Path, line: str) -> Path:
    """The default file with this line in the place of the one with the same key."""
    path = tmp_path / "baseline.yaml"
    key = line.split(":")[0].lstrip("-")
    kept = [text for text in DEFAULTS_FILE.read_text().splitlines() if not text.startswith(f"--{key}:")]
    path.write_text("\n".join([*kept, line]) + "\n")
    return path


def test_defaults_of_the_contract():
    config = load_config(MINIMUM)
    expected = {
        "export_dir": "baseline",
        "model": "DCASE2023T2-AE",
        "score": "MSE",
        "seed": 13711,
        "use_cuda": True,
        "gpu_id": 0,
        "log_interval": 100,
        "is_auto_download": False,
        "max_fpr": 0.1,
        "decision_threshold": 0.9,
        "calibration": "batch",
        "n_mels": 128,
        "frames": 5,
        "frame_hop_length": 1,
        "n_fft": 1024,
        "hop_length": 512,
        "power": 2.0,
        "fmin": 0.0,
        "fmax": None,
        "win_length": None,
        "batch_size": 256,
        "epochs": 100,
        "learning_rate": 0.001,
        "shuffle": True,
        "validation_split": 0.1,
        "mono": None,
    }
    assert config.as_dict(expected) == expected


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--use_ids", "0", "2", "--restart", "--checkpoint_path", "a b/c.pth", "--mono", "False"],
        [
            "--model_name_suffix=-wide",
            "-lr",
            "1e-05",
            "--fmax",
            "8000",
            "--win_length",
            "512",
            "--cache_directory",
            "~/cache",
        ],
    ],
)
def test_as_arguments_says_all_of_a_configuration(tmp_path, options):
    config = load_config([*MINIMUM, *options])
    changed = with_line(tmp_path, "--epochs: 7")
    assert load_config(config.as_arguments(), changed) == config
    assert load_config(config.as_arguments(), tmp_path / "gone.yaml") == config  # or half written


@pytest.mark.parametrize("user", ["me:pass", "me:p@ss", "me:p%40ss", "token"])
def test_passwords_are_for_runs_and_not_for_records(user):
    config = load_config([*MINIMUM, "--download_url", f"https://{user}@host/x"])
    assert config.as_dict()["download_url"] == "https://***@host/x"
    assert f"--download_url=https://{user}@host/x" in config.as_arguments()


def test_options_given_twice_add_up_or_are_named(caplog):
    arguments = ["--use_ids", "0", "2", "-d", "--epochs", "5", "--use_ids", "1", "--epochs", "5"]
    config = load_config([*MINIMUM, *arguments])
    assert (config.use_ids, config.epochs, caplog.text) == ((0, 2, 1), 5, "")
    assert load_config([*MINIMUM, *arguments, "--epochs=6"]).epochs == 6
    assert "--epochs is given twice, as 5 and 6. The last value is used." in caplog.text


def test_command_line_goes_before_the_file():
    config = load_config(
        [*MINIMUM, "-lr", "1e-2", "--epochs=7", "-tag", "wide", "--fmax", "8000", "--use_ids", "0", "2"]
    )
    assert (config.learning_rate, config.epochs, config.model_name_suffix) == (0.01, 7, "wide")
    assert (config.fmax, config.use_ids) == (8000.0, (0, 2))
    assert load_config([*MINIMUM, "--fmax", "null"]).fmax is None


def test_texts_are_read_as_they_stand(tmp_path):
    """YAML alone would make 8 of 010, and 83 of an export directory 0123."""
    assert load_config(MINIMUM, with_line(tmp_path, "--seed: 010")).seed == 10
    assert load_config(MINIMUM, with_line(tmp_path, "--export_dir: 0123")).export_dir == "0123"
    assert load_config(MINIMUM, with_line(tmp_path, "--fmax: ~")).fmax is None
    assert load_config([*MINIMUM, "-tag", ""]).model_name_suffix == ""


@pytest.mark.parametrize("text", ["False", "false", "no", "0"])
def test_false_means_false(tmp_path, text):
    assert load_config([*MINIMUM, "--use_cuda", text]).use_cuda is False
    assert load_config(MINIMUM, with_line(tmp_path, f"shuffle: '{text}'")).shuffle is False


def test_keys_with_and_without_dashes(tmp_path):
    text = (
        DEFAULTS_FILE.read_text().replace("--epochs: 100", "epochs: 3").replace("--learning_rate: 0.001", "-lr: 1e-4")
    )
    (tmp_path / "baseline.yaml").write_text(text)
    config = load_config(MINIMUM, tmp_path / "baseline.yaml")
    assert (config.epochs, config.learning_rate) == (3, 0.0001)


def test_relative_directories(tmp_path, monkeypatch):
    """Those of the file start at the file; those of the command line at the current directory."""
    monkeypatch.chdir(tmp_path)
    config = load_config([*MINIMUM, "--model_directory", "mine"])
    assert config.dataset_directory == DEFAULTS_FILE.parent / "data"
    assert config.model_directory == tmp_path / "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epoch", "5"], ["unknown option '--epoch'", "Did you mean '--epochs'"]),
        (["--n_mel=5"], ["unknown option", "'--n_mels'"]),
        (["surplus"], ["unknown option 'surplus'"]),
        (["--epochs", "many"], ["--epochs", "'many'", "integer"]),
        (["--epochs", "2.5"], ["--epochs", "integer"]),
        (["--epochs", "0"], ["--epochs", "at least 1"]),
        (["--epochs"], ["--epochs", "expected one argument"]),
        (["--batch_size", "1"], ["--batch_size", "at least 2"]),
        (["--learning_rate", "-1"], ["--learning_rate", "above 0"]),
        (["--learning_rate", "nan"], ["--learning_rate", "out of range"]),
        (["--frame_hop_length", "1" + 40 * "0"], ["--frame_hop_length", "at most 100000000"]),
        (["--power", "1e-300"], ["--power", "at least 0.01"]),
        (["--validation_split", "1"], ["--validation_split", "above 0 and below 1"]),
        (["--max_fpr", "1.5"], ["--max_fpr", "at most 1"]),
        (["--seed", "-3"], ["--seed", "at least 0"]),
        (["--calibration", "clips"], ["--calibration", "'clips'", "batch or clip"]),
        (["--shuffle", "perhaps"], ["--shuffle", "True or False"]),
        (["--use_ids", "zero"], ["--use_ids", "'zero'"]),
        (["--win_length", "2048"], ["--win_length 2048", "--n_fft 1024"]),
        (["--fmin", "500", "--fmax", "400"], ["--fmax 400.0", "--fmin 500.0"]),
        (["--export_dir", ""], ["--export_dir", "missing"]),
        (["--export_dir", "a/b"], ["--export_dir", "'a/b'", "directory name"]),
        (["-tag", "../x"], ["--model_name_suffix", "directory name"]),
        (["--dataset_directory", "~no-such-user/x"], ["--dataset_directory", "path"]),
        (["--model_directory", "mod\udce9les"], ["--model_directory", "path"]),
        (["--checkpoint_path", "x.pth"], ["--checkpoint_path", "--restart"]),
        (["-e"], ["either -d", "-e"]),
        (["--train_only", "--test_only"], ["--train_only and --test_only"]),
        (["--download_url", "zenodo.org"], ["--download_url zenodo.org", "https://"]),
        (["--download_url", "http://me:pa/ss@host"], ["--download_url host: expected a URL", ".netrc"]),
        (["--download_url", "https://host/?token=pass"], ["--download_url https://host/: expected a URL"]),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(UsageError) as error:
        load_config([*MINIMUM, *arguments])
    assert all(word in str(error.value) for word in words), error.value


def test_neither_split():
    with pytest.raises(UsageError, match="either -d"):
        load_config(MINIMUM[:2])


def test_no_dataset():
    with pytest.raises(UsageError, match=r"--dataset .* is required"):
        load_config(["-d"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--epoch: 5", ["unknown key '--epoch'", "Did you mean '--epochs'"]),
        ("--epochs: ten", ["--epochs", "'ten'", "integer"]),
        ("--epochs: true", ["--epochs", "integer"]),
        ("--epochs: null", ["--epochs", "integer"]),
        ("--n_mels: [1, 2]", ["--n_mels", "single value"]),
        ("--power: 0", ["--power", "at least 0.01"]),
        ("--dataset: DCASE2024T2fan", ["unknown key '--dataset'"]),
        ("--epochs: 'x", ["not valid YAML"]),
        ("--epochs: 5\nepochs: 6", ["epochs' appears twice"]),
    ],
)
def test_wrong_files(tmp_path, line, words):
    with pytest.raises(UsageError) as error:
        load_config(MINIMUM, with_line(tmp_path, line))
    assert all(word in str(error.value) for word in [*words, "baseline.yaml"]), error.value


def test_missing_keys_and_missing_file(tmp_path):
    text = DEFAULTS_FILE.read_text().replace("--n_mels: 128", "").replace("--seed: 13711", "")
    (tmp_path / "baseline.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"baseline.yaml: missing: --seed \(.*\), --n_mels \(number of mel bands\)\."):
        load_config(MINIMUM, tmp_path / "baseline.yaml")
    with pytest.raises(UsageError, match="cannot read"):
        load_config(MINIMUM, tmp_path / "none.yaml")


def test_the_published_file_in_place_of_ours(tmp_path, monkeypatch, caplog):
    """The keys that only this project has get the default values of its own file, with a line that names them."""
    keys = ("model_directory", "cache_directory", "gpu_id", "download_url", "calibration")
    lines = DEFAULTS_FILE.read_text().splitlines()
    file = tmp_path / "baseline.yaml"
    file.write_text("\n".join(line for line in lines if not line.startswith(tuple(f"--{key}:" for key in keys))))
    expected = read_defaults(DEFAULTS_FILE)
    assert read_defaults(file) == expected | {
        key: tmp_path / path.relative_to(ROOT) for key, path in expected.items() if isinstance(path, Path)
    }
    assert (
        caplog.text.count(f"{file} does not have --model_directory (./models), --cache_directory (null), --gpu_id") == 1
    )


def test_paths_of_the_contract(tmp_path):
    places = ["--model_directory", str(tmp_path / "m"), "--result_directory", str(tmp_path / "r"), "-tag", "t"]
    paths = RunPaths(load_config([*MINIMUM, *places, "--seed", "1"]), "DCASE2024T2", "fan", "fan_section_01")
    assert paths.model == tmp_path / "m/baseline/dev_data/DCASE2024T2/seed1_t/fan_section_01/model.pth"
    results = tmp_path / "r/dev_data/baseline_MSE/DCASE2024T2/seed1_t"
    assert paths.anomaly_scores("01") == results / "anomaly_score_fan_section_01_test.csv"
    assert paths.decisions("01") == results / "decision_result_fan_section_01_test.csv"
    assert paths.metrics == results / "result_fan.csv"
    assert paths.score_plot == results / "anomaly_score_fan.png"
