"""The HTML page of a summary: complete in itself, true to the results, and safe to open."""

import csv
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import Workspace
from test_confidence import write_system

from config import load_config
from datasets.catalog import find_dataset
from datasets.clips import parse_clip
from tools import plot_reconstruction, summarize
from tools.results.report import RankedClip
from tools.results.runs import Run
from tools.results.score_files import SectionScores, write_metrics, write_section

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """The page's elements: tag, attributes, text; each tag that was opened must be closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
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

    def all(self, tag, **attributes):
        found = [each for each in self.elements if each[0] == tag]
        return [each for each in found if all(each[1].get(name) == value for name, value in attributes.items())]

    def clip_rows(self, page="machine-fan"):
        """The texts of the cells of each row of the lists of clips in one machine type's page."""
        text = re.search(rf'<section class="page" id="{page}">.*?</section>', self.rawdata_text, re.DOTALL)[0]
        tables = re.findall(r'<table class="clips">.*?</table>', text, re.DOTALL)
        rows = [
            re.findall(r"<td.*?</td>", row, re.DOTALL)
            for row in re.findall(r"<tr>.*?</tr>", "".join(tables), re.DOTALL)
        ]
        return [[re.sub("<.*?>", "", cell) for cell in row] for row in rows if row]


def report(workspace, *arguments, dataset="DCASE2024T2") -> Page:
    summarize.main([dataset, "-d", *workspace.options, "--report", "--resamples", "20", *arguments])
    path = workspace.results / "dev_data/baseline/summarize" / dataset / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    page.rawdata_text, page.path = path.read_text(encoding="utf-8"), path
    return page


@pytest.fixture
def tested(tmp_path, trained):
    """The models and results of `trained`, to be written beside."""
    workspace = Workspace(tmp_path, trained.data)
    workspace.models = trained.models
    shutil.copytree(trained.results, workspace.results, copy_function=shutil.copy2)
    return workspace


def test_nothing_comes_from_elsewhere(tested):
    page = report(tested)
    assert not re.search(r"(src|href)=.?(https?:)?//|@import|url\(", page.rawdata_text)
    sources = [attributes["src"] for tag, attributes, _ in page.elements if "src" in attributes]
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    captions = [text for _, _, text in page.all("figcaption")]
    for caption in (
        "Means and machine types",
        "ROC curves, MSE",
        "Anomaly scores, MAHALA_FRAME",
        "Losses, fan, seed 13711",
    ):
        assert caption in captions
    assert not page.all("section", id="machine-valve")  # it has no results


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
    for _, name, domain, label, *_ in rows:
        assert f"_{domain}_test_{label}_" in name
    links = [attributes for _, attributes, _ in page.all("a") if "play" in attributes.get("class", "")]
    assert len(links) == 16
    for attributes in links:
        clip = page.path.parent / unquote(attributes["href"])
        assert clip.is_file()
        assert attributes["title"] == f"play {clip.name}"


def test_parameters_of_the_models(tested):
    page = report(tested)
    rows = {
        row[0]: row[1:]
        for row in (re.findall(r"<td.*?>(.*?)</td>", line) for line in page.rawdata_text.splitlines())
        if row
    }
    assert rows["epochs"] == ["100", "3"]
    assert "calibration" not in rows  # of a test, and it may have been another
    assert rows["version of torch"][1].startswith("2.13.0")
    assert rows["device"] == ["", "cpu"]
    assert '<td class="name changed">3</td>' in page.rawdata_text
    assert '<td class="name">0.001</td><td class="name">0.001</td>' in page.rawdata_text


def test_reconstructions_of_this_model_only(tested, caplog):
    page = report(tested)
    assert (
        "tools/plot_reconstruction.py --dataset DCASE2024T2fan -d --ranked 2 --dataset_directory " in page.rawdata_text
    )
    clip = tested.clip("section_00_source_test_anomaly_0001*")
    plot_reconstruction.main([str(clip), *tested.options])
    assert f"MSE: {clip.stem}" in [text for _, _, text in report(tested).all("figcaption")]
    picture = tested.result() / "reconstruction_fan" / f"{clip.stem}.png"
    before = (tested.result() / "anomaly_score_fan_section_00_test.csv").stat().st_mtime - 1
    os.utime(picture, (before, before))
    assert f"MSE: {clip.stem}" not in [text for _, _, text in report(tested).all("figcaption")]
    assert "1 pictures are older than the scores, and left out" in caplog.text


def test_several_seeds_and_clips_that_are_gone(tmp_path):
    workspace = Workspace(tmp_path)
    for seed in (1, 2):
        write_system(workspace.results, "MSE", seed, 1.0, noise=0.3)
    write_system(workspace.results, "MAHALA", 1, 1.0, machines=["fan"])
    page = report(workspace)
    rows = page.clip_rows()
    assert len(rows) == 40
    assert not [each for each in page.all("a") if "play" in each[1].get("class", "")]
    by_seed = [
        dict(csv.reader((workspace.result("MSE", f"seed{seed}") / "anomaly_score_fan_section_00_test.csv").open()))
        for seed in (1, 2)
    ]
    means = {name: (float(by_seed[0][name]) + float(by_seed[1][name])) / 2 for name in by_seed[0]}
    assert [row[1] for row in rows] == sorted(means, key=means.get, reverse=True)
    assert float(rows[0][5]) == pytest.approx(max(means.values()), rel=1e-4)
    assert {row[6] for row in rows} == {"normal"}
    slider = page.clip_rows("machine-slider")
    assert {tuple(row[7:]) for row in slider} == {("", "", "")}  # MAHALA has no scores of it
    assert page.all("section", id="machine-slider")


def test_several_sections(tmp_path):
    """2022: one list of clips for each section."""
    workspace = Workspace(tmp_path)
    config = load_config(["--dataset", "DCASE2022T2", "-d", *workspace.options])
    run = Run(config, find_dataset("DCASE2022T2"))
    machine = run.machines["fan"]
    sections = []
    for section in machine.sections:
        names = [
            f"section_{section}_{d}_test_{label}_000{n}_x.wav"
            for label in ("normal", "anomaly")
            for d in ("source", "target")
            for n in (0, 1)
        ]
        clips = [parse_clip(Path(name)) for name in names]
        sections.append(SectionScores(section, clips, [float(n) for n in range(len(clips))], None))
        write_section(run.paths(machine), sections[-1])
    write_metrics(run.paths(machine), sections, 0.1)
    page = report(workspace, dataset="DCASE2022T2")
    headings = [text for _, _, text in page.all("h3")]
    assert [f"Clips of section {section}, ranked" for section in machine.sections] == headings[1:]
    assert len(page.clip_rows()) == 24
    assert "fan: percent of its sections" in [text for _, _, text in page.all("caption")]


def test_hostile_names_stay_text(tmp_path, trained):
    """A tag and a clip's attributes may hold what would be markup."""
    workspace = Workspace(tmp_path, trained.data)
    write_system(workspace.results, "MSE", 1, 1.0, tag="<script>alert(1)<")
    directory = next((workspace.results / "dev_data/baseline_MSE/DCASE2024T2").glob("seed1_*"))
    for kind in ("anomaly_score", "decision_result"):
        path = directory / f"{kind}_fan_section_00_test.csv"
        path.write_text(path.read_text().replace("normal_0000_x.wav", "normal_0000_\"><img src='x'>.wav"))
    page = report(workspace)
    assert "MSE <script>alert(1)<" in [row[0] for row in [[text] for _, _, text in page.all("td")]]
    assert len(page.all("script")) == 1
    assert all(attributes["src"].startswith("data:") for _, attributes, _ in page.all("img"))
    assert any("\"><img src='x'>.wav" in text for _, _, text in page.all("td"))


def test_damaged_scores_cost_their_list_only(tested, caplog):
    (tested.result("MAHALA") / "anomaly_score_fan_section_00_test.csv").write_text("no scores")
    page = report(tested)
    assert "MAHALA, fan: no list of clips: " in caplog.text
    assert len(page.clip_rows()) == 16


def test_domains_that_are_not_known_are_left_empty():
    lines = [
        RankedClip(parse_clip(Path(name)), "", [])
        for name in (
            "section_00_0001.wav",
            "section_03_source_test_0001.wav",
            "section_03_target_test_0001.wav",
            "section_00_source_test_normal_0001_x.wav",
        )
    ]
    assert [line.domain for line in lines] == ["", "", "target", "source"]
