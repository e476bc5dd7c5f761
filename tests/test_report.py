"""The HTML page of a summary: complete in itself, true to the results, and safe to open."""

import csv
import os
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import Workspace, write_test
from test_bootstrap import write_system

from config import load_config
from datasets.catalog import find_dataset
from datasets.clips import parse_clip
from tools import plot_reconstruction, summarize
from tools.results.runs import Run
from tools.results.score_files import SectionScores, write_metrics

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """The page's elements: tag, attributes, text; each tag that was opened must be closed."""

    def __init__(self, path):
        super().__init__()
        self.path, self.text = path, path.read_text(encoding="utf-8")
        self.elements, self._open = [], []
        self.feed(self.text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        if tag not in VOID:
            self._open.append((tag, self.elements[-1]))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for _, element in self._open:
            element[2] += data

    def texts(self, tag):
        return [text for name, _, text in self.elements if name == tag]

    def attributes(self, tag):
        return [attributes for name, attributes, _ in self.elements if name == tag]

    def clip_rows(self, page="machine-fan"):
        """The texts of the cells of each row of the lists of clips in one machine type's page."""
        text = re.search(rf'<section class="page" id="{page}">.*?</section>', self.text, re.DOTALL)[0]
        tables = "".join(re.findall(r'<table class="clips">.*?</table>', text, re.DOTALL))
        rows = [re.findall(r"<td.*?</td>", row, re.DOTALL) for row in re.findall(r"<tr>.*?</tr>", tables, re.DOTALL)]
        return [[re.sub("<.*?>", "", cell) for cell in row] for row in rows if row]


def report(workspace, dataset="DCASE2024T2") -> Page:
    summarize.main([dataset, "-d", *workspace.options, "--report", "--resamples", "20"])
    return Page(workspace.results / "dev_data/baseline/summarize" / dataset / "report.html")


@pytest.fixture
def tested(tmp_path, trained):
    """The models of `trained`, and a copy of its results."""
    workspace = Workspace(tmp_path, trained.data)
    workspace.models = trained.models
    shutil.copytree(trained.results, workspace.results, copy_function=shutil.copy2)
    return workspace


def test_page_of_tested_models(tested):
    page = report(tested)
    # Nothing comes from elsewhere.
    assert not re.search(r"(src|href)=.?(https?:)?//|@import|url\(", page.text)
    sources = [attributes["src"] for attributes in page.attributes("img")]
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    captions = ["Metrics by machine type", "ROC curves, MSE", "Anomaly scores, MAHALA_FRAME", "Losses, fan, seed 13711"]
    assert set(captions) <= set(page.texts("figcaption"))
    assert len(sources) == 1 + 2 * 3 + 1  # the scores share a model
    pages = [attributes["id"] for attributes in page.attributes("section")]
    assert pages == ["overview", "machine-fan"]  # valve has no results
    # Parameters; bold where they are not those of baseline.yaml.
    rows = {
        row[0]: row[1:] for row in (re.findall(r"<td.*?>(.*?)</td>", line) for line in page.text.splitlines()) if row
    }
    assert rows["epochs"] == ["100", "3"]
    assert "calibration" not in rows  # of a test, and it may have been another
    assert rows["version of torch"][1].startswith("2.13.0")
    assert rows["device"] == ["", "cpu"]
    assert '<td class="name changed">3</td>' in page.text
    assert '<td class="name">0.001</td><td class="name">0.001</td>' in page.text


def test_clips_are_ranked_and_can_be_played(tested):
    page = report(tested)
    scores, decisions = (
        dict(csv.reader((tested.result(score) / f"{kind}_fan_section_00_test.csv").open()))
        for score, kind in (("MSE", "anomaly_score"), ("MAHALA", "decision_result"))
    )
    rows = page.clip_rows()
    assert [row[1] for row in rows] == sorted(scores, key=lambda name: -float(scores[name]))
    assert [int(row[4]) for row in rows] == list(range(1, 17))
    assert [float(row[5]) for row in rows] == [float(f"{float(scores[row[1]]):.5g}") for row in rows]
    assert [row[9] for row in rows] == [{"0": "normal", "1": "anomaly"}[decisions[row[1]]] for row in rows]
    assert all(f"_{domain}_test_{label}_" in name for _, name, domain, label, *_ in rows)
    links = [attributes for attributes in page.attributes("a") if attributes.get("class") == "play"]
    clips = [page.path.parent / unquote(attributes["href"]) for attributes in links]
    assert [clip.name for clip in clips if clip.is_file()] == [row[1] for row in rows]
    assert [attributes["title"] for attributes in links] == [f"play {clip.name}" for clip in clips]


def test_reconstructions_of_this_model_only(tested, caplog):
    assert "tools/plot_reconstruction.py --dataset DCASE2024T2fan -d --ranked 2 --dataset_dir" in report(tested).text
    clip = tested.clip("section_00_source_test_anomaly_0001*")
    plot_reconstruction.main([str(clip), *tested.options])
    assert f"MSE: {clip.stem}" in report(tested).texts("figcaption")
    plot = tested.result() / "reconstruction_fan" / f"{clip.stem}.png"
    before = (tested.result() / "anomaly_score_fan_section_00_test.csv").stat().st_mtime - 1
    os.utime(plot, (before, before))
    (tested.result("MAHALA") / "anomaly_score_fan_section_00_test.csv").write_text("damaged: costs its list only")
    page = report(tested)
    assert f"MSE: {clip.stem}" not in page.texts("figcaption")
    assert len(page.clip_rows()) == 16
    assert "MAHALA, seed 13711: fan 00 left out: " in page.text
    assert "1 plots are left out because they are older than the scores" in caplog.text


def change_section(run, **changes):
    machine = run.machines["fan"]
    write_test(run.paths(machine), replace(run.section(machine, "00"), **changes))


def test_several_seeds_and_clips_that_are_gone(tmp_path):
    workspace = Workspace(tmp_path)
    _, run = [write_system(workspace.results, "MSE", seed, 1.0, noise=0.3) for seed in (1, 2)]
    write_system(workspace.results, "MAHALA", 1, 1.0, machines=["fan"])
    change_section(run, decisions=[1, *[0] * 79])
    page = report(workspace)
    rows = page.clip_rows()
    assert not [attributes for attributes in page.attributes("a") if attributes.get("class") == "play"]
    first, second = (
        dict(csv.reader((workspace.result("MSE", f"seed{seed}") / "anomaly_score_fan_section_00_test.csv").open()))
        for seed in (1, 2)
    )
    means = {name: (float(first[name]) + float(second[name])) / 2 for name in first}
    assert [row[1] for row in rows] == sorted(means, key=means.get, reverse=True)
    assert float(rows[0][5]) == pytest.approx(max(means.values()), rel=1e-4)
    assert sorted(row[6] for row in rows) == ["anomaly 1 of 2", *["normal"] * 79]
    assert {tuple(row[7:]) for row in page.clip_rows("machine-slider")} == {("", "", "")}  # MAHALA has no scores of it


def test_several_sections(tmp_path):
    """2022: one list of clips for each section; domains and labels that are not known are left empty."""
    workspace = Workspace(tmp_path)
    run = Run(load_config(["--dataset", "DCASE2022T2", "-d", *workspace.options]), find_dataset("DCASE2022T2"))
    machine, results = run.machines["fan"], []
    for section in machine.sections:
        names = [f"section_{section}_{domain}_test_normal_0001_x.wav" for domain in ("source", "target")]
        names += [name.replace("normal", "anomaly") for name in names]
        clips = [parse_clip(Path(name)) for name in names]
        results.append(SectionScores(section, clips, [1.0, 2.0, 3.0, 4.0], None, 0.1))
    write_metrics(run.paths(machine), results)
    names = ["section_02_0001.wav", "section_02_target_test_0001.wav", "section_02_source_test_normal_0001.wav"]
    unlabelled = SectionScores("02", [parse_clip(Path(name)) for name in names], [3.0, 2.0, 1.0], None, 0.1)
    write_test(run.paths(machine), *results[:2], unlabelled)
    page = report(workspace, dataset="DCASE2022T2")
    assert page.texts("h3")[1:] == [
        f"Test clips of section {section}, ranked by anomaly score" for section in machine.sections
    ]
    assert "fan: metrics in percent, means over the sections" in page.texts("caption")
    rows = [row[2:7] for row in page.clip_rows()]
    assert rows[0] == ["target", "anomaly", "1", "4", ""]
    assert rows[8:] == [["", "", "1", "3", ""], ["target", "", "2", "2", ""], ["source", "normal", "3", "1", ""]]


def test_hostile_names_stay_text(tmp_path, trained):
    """A tag and a clip's attributes may hold what would be markup."""
    workspace = Workspace(tmp_path, trained.data)
    run = write_system(workspace.results, "MSE", 1, 1.0, tag="<script>alert(1)<")
    clips = run.section(run.machines["fan"], "00").clips
    clips[0] = replace(clips[0], path=Path("section_00_source_test_normal_0000_\"><img src='x'>.wav"))
    change_section(run, clips=clips)
    page = report(workspace)
    assert "MSE <script>alert(1)<" in page.texts("td")
    assert len(page.texts("script")) == 1
    assert all(attributes["src"].startswith("data:") for attributes in page.attributes("img"))
    assert any("\"><img src='x'>.wav" in text for text in page.texts("td"))
