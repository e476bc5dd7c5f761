"""The CSVs and the record that a test writes, and how they are read again."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from config import BaselineError, load_config
from datasets.catalog import find_machine
from datasets.clips import parse_clip
from tools.results.score_files import (
    SectionScores,
    read_metrics,
    read_sections,
    write_metrics,
    write_section,
    write_test_record,
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


@pytest.fixture
def written(paths):
    write_section(paths, SectionScores("00", CLIPS, SCORES, DECISIONS))
    return paths


def test_form_order_and_digits(written):
    """As the challenge asks for: no header, the clips in their order; all digits."""
    for path, values in ((written.anomaly_scores("00"), SCORES), (written.decisions("00"), DECISIONS)):
        assert path.read_text() == "".join(f"{name},{value}\n" for name, value in zip(NAMES, values, strict=True))
    assert read_sections(written, {"00": CLIPS}) == [SectionScores("00", CLIPS, SCORES, DECISIONS)]


def test_older_decisions_do_not_stay(written):
    write_section(written, SectionScores("00", CLIPS, SCORES, None))
    assert read_sections(written, {"00": CLIPS, "01": CLIPS}) == [SectionScores("00", CLIPS, SCORES, None)]


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_scores_that_are_no_finite_numbers(paths, score):
    with pytest.raises(BaselineError, match=r"0003_x.wav: its score is (nan|inf), not a finite number"):
        write_section(paths, SectionScores("00", CLIPS, [1.0, 2.0, score, 3.0], DECISIONS))
    assert not paths.anomaly_scores("00").exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (lambda rows: [rows[1], rows[0], *rows[2:]], "has other clips than the dataset"),  # another order
        (lambda rows: rows[:-1], "has other clips than the dataset"),
        (lambda rows: [*rows, rows[0]], "a clip is there twice"),
        (lambda rows: [*rows[:-1], f"{NAMES[-1]},nan"], "not a finite number"),
        (lambda rows: ["file,score", *rows], "not lines of file name and value"),
    ],
)
def test_score_files_that_are_left_out(written, caplog, rows, words):
    path = written.anomaly_scores("00")
    path.write_text("\n".join(rows(path.read_text().splitlines())) + "\n")
    assert read_sections(written, {"00": CLIPS}) == []
    assert f"section 00 is left out: {path}" in caplog.text
    assert words in caplog.text


@pytest.mark.parametrize("change", [("0001_x.wav", "0009_x.wav"), (",1\n", ",0.5\n"), (",", ";")])
def test_decisions_that_are_left_out(written, caplog, change):
    path = written.decisions("00")
    path.write_text(path.read_text().replace(*change))
    assert read_sections(written, {"00": CLIPS}) == [SectionScores("00", CLIPS, SCORES, None)]
    assert f"decisions are left out: {path}" in caplog.text


def test_metrics_of_sections_with_and_without_a_target_domain(paths, caplog):
    """Each has metrics that the other lacks; means of all digits; `nan` is said."""
    both = SectionScores("00", CLIPS, SCORES, DECISIONS)
    source = SectionScores("01", [CLIPS[1], CLIPS[3], CLIPS[3]], [1.0, 2.0, 1.5], [0, 1, 0])
    rows = write_metrics(paths, [both, source], 0.1)
    table = [line.split(",") for line in paths.metrics.read_text().splitlines()]
    assert table[0][:4] == ["section", "AUC (source)", "AUC (target)", "pAUC"]
    assert table[0][-4:] == ["AUC", "precision", "recall", "F1 score"]
    assert [row[0] for row in table[1:]] == ["00", "01", "arithmetic mean", "harmonic mean"]
    assert table[2][-4:] == ["1.0", "1.0", "0.5", repr(2 / 3)]
    pauc = [both.metrics(0.1)["pAUC"], source.metrics(0.1)["pAUC"]]
    assert rows["arithmetic mean"]["pAUC"] == pytest.approx(sum(pauc) / 2)
    assert rows["harmonic mean"]["pAUC"] == pytest.approx(2 / (1 / pauc[0] + 1 / pauc[1]))
    assert float(table[3][3]) == rows["arithmetic mean"]["pAUC"]
    assert table[3][1] == "nan"
    assert "section 01: not defined (nan) without normal clips, anomalous clips or decisions: AUC (s" in caplog.text
    assert list(read_metrics(paths.metrics)) == ["00", "01"]
    assert read_metrics(paths.metrics)["00"]["pAUC"] == pauc[0]
    assert write_metrics(paths, [both], 0.5)["00"] == both.metrics(0.5) != both.metrics(0.1)


@pytest.mark.parametrize("rows", ["", "00,high\n", "00,7\n", "00,-1\n", "00\n", "00,1,1\n"])
def test_damaged_metrics_are_named(paths, rows):
    paths.metrics.parent.mkdir(parents=True)
    paths.metrics.write_text(f"section,AUC\n{rows}arithmetic mean,0.5\n")
    with pytest.raises(BaselineError, match=r"result_fan.csv: not a result file .* Test again"):
        read_metrics(paths.metrics)


def test_record_of_a_test(written):
    """The weights, the parameters, the clips with their labels, and the files."""

    def record(clips=CLIPS, weights="ab12", **changes):
        write_test_record(run_paths(replace(written.config, **changes), FAN, ("00",)), clips, weights)
        return json.loads((written.result_dir / "test_fan.json").read_text())

    first = record()
    assert first["model_sha256"] == "ab12"
    assert (first["score"], first["calibration"], first["max_fpr"]) == ("MSE", "batch", 0.1)
    assert "epochs" not in first
    files = [written.anomaly_scores("00"), written.decisions("00")]
    assert first["files"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert record(max_fpr=0.2) == first | {"max_fpr": 0.2}
    for clips in (CLIPS[1:], [replace(CLIPS[0], is_anomaly=True), *CLIPS[1:]], CLIPS[::-1]):
        assert record(clips)["clips_sha256"] != first["clips_sha256"]
    files[1].unlink()
    assert list(record()["files"]) == [files[0].name]
