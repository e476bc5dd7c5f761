"""The CSVs and the record that a test writes, and how they are read again."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import write_test

from config import BaselineError, load_config
from datasets.catalog import find_machine
from datasets.clips import parse_clip
from tools.results.score_files import (
    SectionScores,
    read_column,
    read_metrics,
    read_section,
    write_metrics,
    write_section,
)
from tools.training.paths import run_paths

FAN = find_machine("DCASE2024T2fan", "dev")
NAMES = [
    "section_00_target_test_normal_0007_x.wav",
    "section_00_source_test_normal_0001_x.wav",
    "section_00_target_test_anomaly_0003_x.wav",
    "section_00_source_test_anomaly_0002_x.wav",
]
CLIPS = [parse_clip(Path("fan/test", name)) for name in NAMES]
SCORES = [0.1234567890123456, 3.0, 1e-05, 12345.678901234567]
DECISIONS = [0, 1, 0, 1]


@pytest.fixture
def paths(tmp_path):
    config = load_config(["--dataset", "DCASE2024T2fan", "-d", "--result_directory", str(tmp_path)])
    return run_paths(config, FAN, ("00",))


RESULT = SectionScores("00", CLIPS, SCORES, DECISIONS, 0.1)


@pytest.fixture
def written(paths):
    write_test(paths, RESULT)
    return paths


def read(paths):
    return read_section(paths, "00", Path("raw"))


def test_form_order_and_digits(written):
    """As the challenge asks for: no header, the clips in their order; all digits."""
    for path, values in ((written.anomaly_scores("00"), SCORES), (written.decisions("00"), DECISIONS)):
        assert path.read_text() == "".join(f"{name},{value}\n" for name, value in zip(NAMES, values, strict=True))
    found = read(written)
    assert (found.scores, found.decisions, found.max_fpr) == (SCORES, DECISIONS, 0.1)
    facts = [(clip.name, clip.section, clip.is_target, clip.is_anomaly) for clip in found.clips]
    assert facts == [(clip.name, clip.section, clip.is_target, clip.is_anomaly) for clip in CLIPS]


def test_older_decisions_do_not_stay(written):
    write_test(written, replace(RESULT, decisions=None))
    assert read(written).decisions is None
    assert not written.decisions("00").exists()


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_scores_that_are_no_finite_numbers(paths, score):
    with pytest.raises(BaselineError, match=r"0003_x.wav: its score is (nan|inf), not a finite number"):
        write_section(paths, replace(RESULT, scores=[1.0, 2.0, score, 3.0]))
    assert not paths.anomaly_scores("00").exists()


@pytest.mark.parametrize("name", ["anomaly_scores", "decisions"])
def test_files_that_are_not_those_of_the_test(written, name):
    path = getattr(written, name)("00")
    path.write_text(path.read_text().replace("0\n", "1\n", 1) + "\n")
    with pytest.raises(
        BaselineError, match=r"anomaly_score_fan_section_00_test.csv or its decisions have changed since"
    ):
        read(written)


def test_files_that_a_spreadsheet_saved(written):
    """A byte order mark and other line ends change no value."""
    expected = read(written), read_metrics(written.metrics)
    for path in (written.anomaly_scores("00"), written.decisions("00"), written.metrics):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert (read(written), read_metrics(written.metrics)) == expected


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (lambda rows: [*rows, rows[0]], "a clip appears twice"),
        (lambda rows: [*rows[:-1], f"{NAMES[-1]},nan"], "not a finite number"),
        (lambda rows: ["file,score", *rows], "not lines of file name and value"),
    ],
)
def test_damaged_columns_are_named(written, rows, words):
    path = written.anomaly_scores("00")
    path.write_text("\n".join(rows(path.read_text().splitlines())) + "\n")
    with pytest.raises(BaselineError, match=words):
        read_column(path)


def test_metrics_of_sections_with_and_without_a_target_domain(paths, caplog):
    """Each has metrics that the other lacks; means of all digits; `nan` is said."""
    both = RESULT
    source = SectionScores("01", [CLIPS[1], CLIPS[3], CLIPS[3]], [1.0, 2.0, 1.5], [0, 1, 0], 0.1)
    rows = write_metrics(paths, [both, source])
    table = [line.split(",") for line in paths.metrics.read_text().splitlines()]
    assert table[0][:4] == ["section", "AUC (source)", "AUC (target)", "pAUC"]
    assert table[0][-4:] == ["AUC", "precision", "recall", "F1 score"]
    assert [row[0] for row in table[1:]] == ["00", "01", "arithmetic mean", "harmonic mean"]
    assert table[2][-4:] == ["1.0", "1.0", "0.5", repr(2 / 3)]
    pauc = [both.metrics()["pAUC"], source.metrics()["pAUC"]]
    assert rows["arithmetic mean"]["pAUC"] == pytest.approx(sum(pauc) / 2)
    assert rows["harmonic mean"]["pAUC"] == pytest.approx(2 / (1 / pauc[0] + 1 / pauc[1]))
    assert float(table[3][3]) == rows["arithmetic mean"]["pAUC"]
    assert table[3][1] == "nan"
    assert "section 01: undefined (nan) without normal clips, anomalous clips or decisions: AUC (s" in caplog.text
    assert list(read_metrics(paths.metrics)) == ["00", "01"]
    assert read_metrics(paths.metrics)["00"]["pAUC"] == pauc[0]
    wider = replace(both, max_fpr=0.5)
    assert write_metrics(paths, [wider])["00"] == wider.metrics() != both.metrics()


@pytest.mark.parametrize("rows", ["", "00,high\n", "00,7\n", "00,-1\n", "00\n", "00,1,1\n"])
def test_damaged_metrics_are_named(paths, rows):
    paths.metrics.parent.mkdir(parents=True)
    paths.metrics.write_text(f"section,AUC\n{rows}arithmetic mean,0.5\n")
    with pytest.raises(BaselineError, match=r"result_fan.csv: not a result file .* Test again"):
        read_metrics(paths.metrics)
