"""Building a submission, and validating one: what passes is read by an evaluator, whose score is ours."""

import copy
import itertools
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, Workspace, no_handlers_left
from plain_evaluator import evaluate

from config import load_config
from datasets.catalog import find_dataset
from datasets.clips import parse_clip
from networks import make_network
from tools import make_submission, summarize
from tools.results.runs import Run, run_of_directory
from tools.results.score_files import SectionScores, write_metrics, write_section
from tools.results.submission_rules import find_problems, read_package
from tools.training.console import run_command

DATASET = find_dataset("DCASE2024T2")
MACHINES = list(DATASET.machines["eval"])
TEAM = "Doe_Lab_task2"
SYSTEM = f"task2/{TEAM}_1"
SCORES = f"{SYSTEM}/anomaly_score_HairDryer_section_00_test.csv"
DECISIONS = f"{SYSTEM}/decision_result_HairDryer_section_00_test.csv"
META = f"{SYSTEM}/{TEAM}_1.meta.yaml"
NAMES = [f"section_00_{number:04d}.wav" for number in range(200)]
COMPLEXITY = {"total_parameters": 267928, "MACS": "81.6 M"}


def write_evaluation(workspace: Workspace) -> None:
    """Scores of nine machine types as 02a and 02b leave them, with the organisers' labels; and development results."""
    labels = workspace.data / "dcase2024t2" / "eval_data"
    for split, score in itertools.product("ed", ("MSE", "MAHALA")):
        config = load_config(["--dataset", "DCASE2024T2", f"-{split}", "--score", score, *workspace.options])
        run = Run(config, DATASET)
        for number, (name, machine) in enumerate(run.machines.items()):
            generator = np.random.default_rng(number)
            is_anomaly, is_target = generator.permutation(200) < 100, generator.permutation(200) < 100
            for kind, values in (("data", is_anomaly), ("domain", is_target)):
                lines = [f"{clip},{int(value)}\n" for clip, value in zip(NAMES, values, strict=True)]
                path = labels / f"ground_truth_{kind}" / f"ground_truth_{name}_section_00_test.csv"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(lines))
            distance = {"MSE": 1, "MAHALA": 1.5}[score]
            scores = 10 + generator.standard_normal(200) + distance * is_anomaly
            clips = [parse_clip(machine.directory(workspace.data) / "test" / clip) for clip in NAMES]
            result = SectionScores("00", clips, scores.tolist(), (scores > 11).astype(int).tolist())
            write_section(run.paths(machine), result)
            if split == "d":
                write_metrics(run.paths(machine), [with_labels(result, is_anomaly, is_target)], 0.1)


def with_labels(section: SectionScores, is_anomaly, is_target) -> SectionScores:
    labels = zip(section.clips, map(bool, is_anomaly), map(bool, is_target), strict=True)
    return replace(section, clips=[replace(clip, is_anomaly=a, is_target=t) for clip, a, t in labels])


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """A workspace with results, and the file of a submission of two systems; tests only read it."""
    workspace = Workspace(tmp_path_factory.mktemp("submission"))
    write_evaluation(workspace)
    wanted = yaml.safe_load((ROOT / "docs/submission.yaml").read_text())
    wanted["label"] = "Doe_Lab"
    for system in wanted["systems"]:
        system["complexity"] = dict(COMPLEXITY)
    (workspace.directory / "report.pdf").write_bytes(b"%PDF-1.4\n")
    (workspace.directory / "submission.yaml").write_text(yaml.safe_dump(wanted))
    return workspace


@pytest.fixture(scope="module")
def package(evaluation):
    path = evaluation.directory / "made.zip"
    assert submit(evaluation, evaluation.directory / "submission.yaml", "--output", path) == 0
    return read_package(path)[0]


def submit(workspace, *arguments):
    arguments = list(map(str, arguments))
    first = ["validate", "DCASE2024T2"] if arguments[0] == "validate" else ["DCASE2024T2"]
    rest = arguments[1:] if arguments[0] == "validate" else arguments
    with no_handlers_left():
        return run_command(lambda: make_submission.main([*first, *rest, "--dataset_directory", str(workspace.data)]))


def unpack(package, directory):
    for name, contents in package.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(contents)
    return directory


def test_what_is_built_is_what_was_scored(evaluation, package, tmp_path):
    assert len(package) == 2 * (2 * len(MACHINES) + 1) + 1
    for number, score in enumerate(("MSE", "MAHALA"), start=1):
        for machine in MACHINES:
            for kind in ("anomaly_score", "decision_result"):
                name = f"{kind}_{machine}_section_00_test.csv"
                original = evaluation.result(score, split="eval") / name
                assert package[f"task2/{TEAM}_{number}/{name}"] == original.read_bytes()
    meta = yaml.safe_load(package[f"task2/{TEAM}_2/{TEAM}_2.meta.yaml"])
    assert meta["submission"]["label"] == f"{TEAM}_2"
    assert meta["submission"]["abbreviation"] == "AE_MAHALA"
    assert meta["system"]["description"]["machine_learning_method"] == "AE"
    assert "Mahalanobis" in meta["system"]["description"]["decision_making"]
    rows = (evaluation.result("MAHALA") / "result_fan.csv").read_text().splitlines()
    expected = dict(zip(rows[0].split(","), rows[1].split(","), strict=True))
    found = meta["results"]["development_dataset"]["fan"]
    assert found["auc_target"] == pytest.approx(100 * float(expected["AUC (target)"]), abs=0.005)
    again = tmp_path / "again.zip"
    assert submit(evaluation, evaluation.directory / "submission.yaml", "--output", again) == 0
    assert again.read_bytes() == (evaluation.directory / "made.zip").read_bytes()


def test_the_evaluator_reads_it_and_its_score_is_ours(evaluation, package, tmp_path, capsys):
    """Ours: the official score of the summary, from the same CSVs with the organisers' labels."""
    unpack(package, tmp_path)
    labels = evaluation.data / "dcase2024t2" / "eval_data"
    for number, score in enumerate(("MSE", "MAHALA"), start=1):
        run = run_of_directory(evaluation.result(score, split="eval"), load_of(evaluation), DATASET)
        for machine in run.machines.values():
            name = f"ground_truth_{machine.name}_section_00_test.csv"
            values = [read_labels_of(labels / f"ground_truth_{kind}" / name) for kind in ("data", "domain")]
            section = with_labels(run.sections(machine)["00"], *values)
            write_metrics(run.paths(machine), [section], 0.1)
        summarize.main(["DCASE2024T2", "-e", *evaluation.options, "--resamples", "5"])
        summary = evaluation.results / "eval_data/baseline/summarize/DCASE2024T2/summary.csv"
        line = next(
            text for text in summary.read_text().splitlines() if text.startswith(f"{score},1,official score,mean,")
        )
        theirs = evaluate(tmp_path / f"task2/{TEAM}_{number}", labels, MACHINES)
        assert float(line.split(",")[4]) == pytest.approx(theirs, rel=1e-12)
        assert 0.5 < theirs < 0.9


def load_of(workspace):
    return load_config(["--dataset", "DCASE2024T2", "-e", *workspace.options])


def read_labels_of(path):
    labels = dict(line.split(",") for line in path.read_text().split())
    return [labels[name] == "1" for name in NAMES]


def test_run_of_a_results_folder(tmp_path):
    config = load_config(
        [
            "--dataset",
            "DCASE2024T2",
            "-d",
            "--export_dir",
            "my_MSE_net",
            "--score",
            "MAHALA_FRAME",
            "-tag",
            "a_b",
            "--seed",
            "7",
        ]
    )
    config = replace(config, result_directory=tmp_path)
    directory = Run(config, DATASET).paths(DATASET.machines["dev"]["fan"]).result_dir
    found = run_of_directory(directory, load_of(Workspace(tmp_path)), DATASET)
    assert found.paths(DATASET.machines["dev"]["fan"]).result_dir == directory
    assert (found.config.export_dir, found.config.score, found.config.seed) == ("my_MSE_net", "MAHALA_FRAME", 7)
    for other in (
        tmp_path,
        directory.parent,
        Path("/"),
        directory.with_name("fan"),
        directory.parents[1] / "DCASE2023T2/seed1",
    ):
        assert run_of_directory(other, config, DATASET) is None


def test_complexity_of_the_network(tmp_path, trained):
    """That of its linear layers: inputs times outputs, for each of the 309 vectors of 10 s."""
    config = load_config(["--dataset", "DCASE2024T2", "-d", *trained.options])
    dataset = copy.copy(DATASET)
    object.__setattr__(dataset, "machines", {"dev": {"fan": DATASET.machines["dev"]["fan"]}})
    found = make_submission.complexity(Run(config, dataset))
    layers = [(640, 128), *[(128, 128)] * 3, (128, 8), (8, 128), *[(128, 128)] * 3, (128, 640)]
    assert found["MACS"] == f"{309 * sum(i * o for i, o in layers) / 1e6:.1f} M"
    network = make_network("DCASE2023T2-AE", 640, 128)
    assert found["total_parameters"] == sum(p.numel() for p in network.parameters()) - 2 * 128 * 128
    assert torch.is_tensor(network.cov_source)


def lines(package, name):
    return package[name].decode().split("\n")


def edited(number, text):
    """A change of one line."""

    def change(package, name):
        rows = lines(package, name)
        rows[number - 1] = text
        return "\n".join(rows).encode()

    return change


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        (SCORES, lambda p, n: b"file,score\n" + p[n], ", line 1: a header. Remove it."),
        (
            SCORES,
            lambda p, n: p[n].replace(b",", b"\t"),
            ", lines 1 to 200: a tab; clip and value are parted by a comma.",
        ),
        (SCORES, lambda p, n: p[n] + b"\n", ", line 201: blank. Remove it."),
        (SCORES, edited(7, ""), ", line 7: blank. Remove it."),
        (SCORES, edited(7, "  "), ", line 7: blank. Remove it."),
        (SCORES, lambda p, n: p[n].replace(b",", b";"), ", lines 1 to 200: 'section_00_0000.wav;"),
        (
            SCORES,
            lambda p, n: p[n].replace(b",", b", "),
            "(and so on) has quotation marks or blanks. Write clip,value without them.",
        ),
        (SCORES, edited(3, "section_00_0002.wav,nan"), ", line 3: 'nan' is not a finite number."),
        (SCORES, edited(3, "section_00_0002.wav,1e999999"), ", line 3: '1e999999' is not a finite number."),
        (SCORES, edited(3, "section_00_0002.wav,"), ", line 3: '' is not a finite number."),
        (
            SCORES,
            edited(3, "section_00_0002.wav"),
            ", line 3: 'section_00_0002.wav' has 1 columns where clip and value are expected.",
        ),
        (
            SCORES,
            edited(3, "section_00_0002.wav,1,2"),
            ", line 3: 'section_00_0002.wav,1,2' has 3 columns where clip and value are expected.",
        ),
        (SCORES, edited(3, "section_00_0001.wav,1"), ", line 3: section_00_0001.wav was there in line 2 already."),
        (
            SCORES,
            edited(3, "section_01_0002.wav,1"),
            ", line 3: section_01_0002.wav is of section 01, the file of section 00.",
        ),
        (SCORES, edited(3, "test/clip2.wav,1"), ", line 3: 'test/clip2.wav' is not the name of a test clip"),
        (SCORES, edited(3, '"section_00_0002.wav",1'), "has quotation marks or blanks."),
        (SCORES, edited(3, "section_00_٠٠٠٢.wav,1"), "is not the name of a test clip"),
        (SCORES, edited(3, "test/section_00_0002.wav,1"), "is not the name of a test clip"),
        (SCORES, edited(3, "id_00_00000002.wav,1"), ": lines of none of the test clips: id_00_00000002.wav."),
        (
            SCORES,
            edited(3, "section_00_source_test_normal_0002_x.wav,1"),
            ", line 3: 'section_00_source_test_normal_0002_x.wav' is not a name that the test clips were released",
        ),
        (META, lambda p, n: b"system: 5", ": source_code is missing; it may be null."),
        (META, lambda p, n: b"a: !!bool maybe", ": not valid YAML: a value does not go with its tag"),
        (
            SCORES,
            lambda p, n: b"\n".join(p[n].split(b"\n")[:150]),
            ": no line for the test clips: section_00_0150.wav, section_00_0151.wav, section_00_0152.wav and 47 more.",
        ),
        (SCORES, lambda p, n: b"", ": empty."),
        (SCORES, lambda p, n: b"\xef\xbb\xbf" + p[n], ", line 1: begins with a byte order mark."),
        (SCORES, lambda p, n: p[n].replace(b"section_00_0001", b"section_00_000\xff"), ", line 2: not UTF-8 text."),
        (SCORES, lambda p, n: None, ": missing."),
        (DECISIONS, edited(2, "section_00_0001.wav,0.5"), ", line 2: '0.5' is not a decision, 0 or 1."),
        (DECISIONS, edited(2, "section_00_0001.wav,1.0"), ", line 2: '1.0' is not a decision, 0 or 1."),
        (
            DECISIONS,
            edited(2, "section_00_0777.wav,1"),
            ": lines of none of the test clips: section_00_0777.wav.",
        ),
        (DECISIONS, lambda p, n: None, ": missing."),
        (META, lambda p, n: None, ": missing."),
        (META, lambda p, n: b"a: [", ": not valid YAML: "),
        (META, lambda p, n: b"text", ": not the meta data of a submission: it has no keys."),
        (
            META,
            lambda p, n: p[n].replace(b"label: Doe", b"label: Roe"),
            f", line 2: submission.label is 'Roe_Lab_task2_1', and not the name of the folder, {TEAM}_1.",
        ),
        (
            META,
            lambda p, n: p[n].replace(b"AE_MSE", b"AE_MSE_LONGER"),
            ", line 4: submission.abbreviation has more than 10 characters.",
        ),
        (META, lambda p, n: p[n].replace(b"email", b"e-mail"), ", line 6: submission.authors.0.email is missing."),
        (META, lambda p, n: p[n].replace(b"@", b" at "), "not an address."),
        (
            META,
            lambda p, n: p[n].replace(b"corresponding: true", b"corresponding: yes please"),
            ", line 5: submission.authors has 0 corresponding authors; one has `corresponding: true`.",
        ),
        (
            META,
            lambda p, n: p[n].replace(b"location", b"place"),
            "submission.authors.0.affiliation.location is missing.",
        ),
        (
            META,
            lambda p, n: p[n].replace(b"  description:", b"  descriptions:"),
            "system.description is missing, or has no keys; needed: input_sampling_rate,",
        ),
        (META, lambda p, n: p[n].replace(b"front_end", b"frontend"), "system.description.front_end is missing."),
        (
            META,
            lambda p, n: p[n].replace(b"267928", b"many"),
            "system.complexity.total_parameters is 'many'; expected a number",
        ),
        (
            META,
            lambda p, n: p[n].replace(b"81.6 M", b""),
            "system.complexity.MACS is None; expected a number, or a text",
        ),
        (
            META,
            lambda p, n: p[n].replace(b"lastname: Lastname", b"lastname: ''"),
            "submission.authors.0.lastname is ''; expected a text.",
        ),
        (META, lambda p, n: p[n].replace(b"MACS", b"MAC"), "system.complexity.MACS is missing."),
        (META, lambda p, n: p[n].replace(b"source_code", b"source"), ": source_code is missing; it may be null."),
        (
            META,
            lambda p, n: p[n].replace(b"    valve:", b"    valves:"),
            "results.development_dataset.valve is missing, or has no keys; needed: auc_source, auc_target, pauc.",
        ),
        (META, lambda p, n: p[n].replace(b"pauc: ", b"pauc: 1", 1), "expected percent, 0 to 100."),
        (
            META,
            lambda p, n: p[n].replace(b"MACS", b"total_parameters"),
            "system.complexity.total_parameters is there twice.",
        ),
    ],
)
def test_each_problem_is_named(evaluation, package, name, change, expected):
    changed = {**package, name: change(package, name)}
    problems = find_problems({n: c for n, c in changed.items() if c is not None}, DATASET, evaluation.data)
    assert any(problem.startswith(name) and expected in problem for problem in problems), problems
    assert not any("task2_2" in problem for problem in problems)


def test_fractions_in_place_of_percent(evaluation, package):
    meta = yaml.safe_load(package[META])
    for values in meta["results"]["development_dataset"].values():
        values.update({key: value / 100 for key, value in values.items()})
    problems = find_problems({**package, META: yaml.safe_dump(meta).encode()}, DATASET, evaluation.data)
    assert len(problems) == 3 * 7
    assert all("a fraction; expected percent." in problem for problem in problems)


def renamed(package, old, new):
    return {name.replace(old, new): contents for name, contents in package.items()}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda p: {}, "task2/: no system."),
        (
            lambda p: {n: c for n, c in p.items() if not n.endswith(".pdf")},
            "task2/: no report. Put its PDF beside the systems' folders.",
        ),
        (lambda p: {**p, "task2/report.pdf": b"text"}, "task2/report.pdf: not a PDF."),
        (lambda p: {f"mine/{n}": c for n, c in p.items()}, f"mine/{SCORES}: does not belong there."),
        (lambda p: {**p, "__MACOSX/task2/._report.pdf": b""}, "__MACOSX/task2/._report.pdf: does not belong there."),
        (
            lambda p: {**p, f"{SYSTEM}/.DS_Store": b""},
            f"{SYSTEM}/.DS_Store: not a file of a submission to DCASE2024T2. Remove it.",
        ),
        (lambda p: renamed(p, "HairDryer", "Hairdryer"), "Did you mean 'anomaly_score_HairDryer_section_00_test.csv'?"),
        (lambda p: renamed(p, "HairDryer", "Hairdryer"), f"{SCORES}: missing."),
        (lambda p: renamed(p, f"{TEAM}_1", f"{TEAM}_5"), f"task2/{TEAM}_5/: the name is not a label"),
        (lambda p: renamed(p, f"{TEAM}_1", "Baseline"), "task2/Baseline/: the name is not a label"),
        (
            lambda p: renamed(p, f"{TEAM}_1", "Other_Lab_task2_1"),
            "labels of several teams: Doe_Lab_task2, Other_Lab_task2.",
        ),
        (
            lambda p: {**p, **{f"task2/{TEAM}_{n}/x": b"" for n in (3, 4, 5)}},
            "task2/: 5 systems; at most 4 may be submitted.",
        ),
    ],
)
def test_each_problem_of_the_package_is_named(evaluation, package, change, expected):
    problems = find_problems(change(package), DATASET, evaluation.data)
    assert any(expected in problem for problem in problems), problems


def test_every_problem_is_reported(evaluation, package, tmp_path, capsys):
    changed = {
        **package,
        SCORES: edited(2, "")(package, SCORES),
        DECISIONS: edited(9, "section_00_0008.wav,2")(package, DECISIONS),
    }
    unpack(changed, tmp_path / "package")
    assert submit(evaluation, "validate", tmp_path / "package") == 1
    said = capsys.readouterr().err
    assert f"error: {SCORES}, line 2: blank. Remove it.\n" in said
    assert f"error: {DECISIONS}, line 9: '2' is not a decision, 0 or 1.\n" in said
    assert "error: 3 problems.\n" in said  # and the first file lacks a clip


def test_lines_are_compared_with_the_test_clips_that_are_there(package, tmp_path):
    directory = DATASET.machines["eval"]["HairDryer"].directory(tmp_path) / "test"
    directory.mkdir(parents=True)
    for name in NAMES[:-1]:
        (directory / name).touch()
    problems = find_problems(package, DATASET, tmp_path)
    assert problems == [
        f"task2/{TEAM}_{n}/{kind}_HairDryer_section_00_test.csv: lines of none of the test clips: section_00_0199.wav."
        for n in (1, 2)
        for kind in ("anomaly_score", "decision_result")
    ]
    for number in range(199, 205):
        (directory / f"section_00_{number:04d}.wav").touch()
    named = "section_00_0200.wav, section_00_0201.wav, section_00_0202.wav and 2 more."
    assert f"{SCORES}: no line for the test clips: {named}" in find_problems(package, DATASET, tmp_path)


def test_order_of_lines_and_line_ends_do_not_matter(evaluation, package, tmp_path):
    rows = package[SCORES].split(b"\n")[:-1]
    changed = {**package, SCORES: b"\r\n".join(rows[::-1])}
    assert find_problems(changed, DATASET, evaluation.data) == []
    labels = evaluation.data / "dcase2024t2" / "eval_data"
    scores = [
        evaluate(unpack(p, tmp_path / name) / SYSTEM, labels, MACHINES) for name, p in (("a", package), ("b", changed))
    ]
    assert scores[0] == scores[1]


@hypothesis.given(data=st.data())
def test_what_passes_is_read_by_the_evaluator(evaluation, package, tmp_path_factory, data):
    """Bytes of a file cut, doubled, replaced: either a problem is named, or the evaluator has a score."""
    name = data.draw(st.sampled_from([SCORES, DECISIONS]))
    contents = package[name]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(contents)))
        end = data.draw(st.integers(start, min(len(contents), start + 30)))
        piece = data.draw(
            st.sampled_from(
                [
                    b"",
                    b"\n",
                    b"\r\n",
                    b"0",
                    b"1",
                    b",",
                    b"\t",
                    b" ",
                    b"nan",
                    b"inf",
                    b'"',
                    b"e5",
                    b"-",
                    b"_",
                    b"\xff",
                    contents[start:end] * 2,
                ]
            )
        )
        contents = contents[:start] + piece + contents[end:]
    package = {each: package[each] for each in package if not each.startswith(f"task2/{TEAM}_2")}  # one is enough
    if find_problems({**package, name: contents}, DATASET, evaluation.data):
        return
    directory = tmp_path_factory.mktemp("read")
    unpack({**package, name: contents}, directory)
    assert evaluate(directory / SYSTEM, evaluation.data / "dcase2024t2" / "eval_data", MACHINES) is not None
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (
            lambda w: w.pop("authors"),
            "submission.yaml: the key 'authors' is missing. docs/submission.yaml is an example.",
        ),
        (lambda w: w.update(autors=w.pop("authors")), "unknown key 'autors'. Did you mean 'authors'?"),
        (lambda w: w.update(systems=[]), "`systems` is a list of 1 to 4 systems."),
        (
            lambda w: w["systems"].extend(copy.deepcopy(w["systems"][0]) for _ in range(3)),
            "`systems` is a list of 1 to 4 systems.",
        ),
        (lambda w: w["systems"][1].pop("results"), "submission.yaml: system 2: the key 'results' is missing."),
        (lambda w: w["systems"][1].update(result=1), "system 2: unknown key 'result'. Did you mean 'results'?"),
        (lambda w: w["systems"].append("MSE"), "system 3: expected keys and values: name, abbreviation, results,"),
        (lambda w: w.update(description="AE"), "description: expected keys and values: input_sampling_rate,"),
        (lambda w: w["description"].pop("front_end"), "description: the key 'front_end' is missing."),
        (
            lambda w: w["description"].update(frontend=1),
            "description: unknown key 'frontend'. Did you mean 'front_end'?",
        ),
        (lambda w: w["systems"][1].update(description={"x": 1}), "description of system 2: unknown key 'x'."),
        (lambda w: w.update(label="me"), "the name is not a label"),
        (lambda w: w.update(label="Lastname_Institute"), "`label` is that of the example."),
        (
            lambda w: w["systems"][0].update(results="results/eval_data/baseline_MSE/DCASE2023T2/seed1"),
            "has results of DCASE2023T2, and not of DCASE2024T2.",
        ),
        (lambda w: w.update(report="missing.pdf"), "missing.pdf: No such file or directory."),
        (lambda w: w.update(report="a\0b"), "embedded null byte. Mend that, or name another file."),
        (
            lambda w: w["systems"][0].update(results="results/eval_data/baseline_MSE/DCASE2024T2/seed1"),
            "seed1: no anomaly_score_*.csv there. Run ./02a_test_2024t2.sh -e first",
        ),
        (
            lambda w: w["systems"][0].update(results="results/dev_data/baseline_MSE/DCASE2024T2/seed13711"),
            "has results of the development data. Name those of eval_data.",
        ),
        (
            lambda w: w["systems"][0].pop("complexity"),
            "so that the network's complexity cannot be worked out. Name the models' place",
        ),
        (lambda w: w["systems"][0].update(results="elsewhere"), "`development_results` cannot be worked out. Add it."),
    ],
)
def test_what_is_wrong_with_the_file_is_said_and_nothing_written(evaluation, tmp_path, capsys, change, error):
    wanted = yaml.safe_load((evaluation.directory / "submission.yaml").read_text())
    change(wanted)
    for name in ("results", "report.pdf"):
        (tmp_path / name).symlink_to(evaluation.directory / name)
    (tmp_path / "elsewhere").symlink_to(evaluation.result("MSE", split="eval"))
    (tmp_path / "submission.yaml").write_text(yaml.safe_dump(wanted))
    assert submit(evaluation, tmp_path / "submission.yaml", "--model_directory", evaluation.models) == 1
    said = capsys.readouterr().err
    assert error in said
    assert "Traceback" not in said
    assert not (tmp_path / "submission.zip").exists()


def test_a_system_made_elsewhere(evaluation, tmp_path):
    """Its folder has CSVs only; what cannot be worked out is said."""
    shutil.copytree(
        evaluation.result("MSE", split="eval"), tmp_path / "other", ignore=shutil.ignore_patterns("result_*")
    )
    wanted = yaml.safe_load((evaluation.directory / "submission.yaml").read_text())
    figures = {"auc_source": 70.0, "auc_target": 60.0, "pauc": 55.0}
    own = {"complexity": COMPLEXITY, "development_results": {name: dict(figures) for name in DATASET.machines["dev"]}}
    wanted |= {
        "systems": [
            {"name": "Other", "abbreviation": "OTHER", "results": "other", "source_code": "https://example.org", **own}
        ]
    }
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.4\n")
    (tmp_path / "submission.yaml").write_text(yaml.safe_dump(wanted))
    assert submit(evaluation, tmp_path / "submission.yaml") == 0
    assert submit(evaluation, "validate", tmp_path / "submission.zip") == 0
    meta = yaml.safe_load(read_package(tmp_path / "submission.zip")[0][META])
    assert meta["results"]["development_dataset"]["valve"] == figures
    assert meta["source_code"] == "https://example.org"


def test_a_package_that_cannot_be_read(evaluation, tmp_path, capsys):
    (tmp_path / "text.zip").write_text("no zip")
    assert submit(evaluation, "validate", tmp_path / "text.zip") == 1
    assert submit(evaluation, "validate", tmp_path / "missing.zip") == 1
    assert capsys.readouterr().err.count("neither a zip that can be read nor a folder") == 2


def test_a_damaged_zip(evaluation, tmp_path, capsys):
    """One file's bytes are damaged: it is named, and the others are checked."""
    original = (evaluation.directory / "made.zip").read_bytes()
    with zipfile.ZipFile(evaluation.directory / "made.zip") as package:
        start = package.getinfo(SCORES).header_offset
    path = tmp_path / "damaged.zip"
    place = start + 30 + len(SCORES) + 50
    path.write_bytes(original[:place] + bytes(20) + original[place + 20 :])
    assert submit(evaluation, "validate", path) == 1
    said = capsys.readouterr().err
    assert f"{SCORES}: cannot be read (" in said
    assert "error: 1 problem." in said


def test_a_package_of_no_size_is_neither_written_nor_read(evaluation, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tools.results.submission_rules.MOST_BYTES", 100_000)
    path = tmp_path / "large.zip"
    assert submit(evaluation, evaluation.directory / "submission.yaml", "--output", path) == 1
    assert submit(evaluation, "validate", evaluation.directory / "made.zip") == 1
    assert capsys.readouterr().err.count("39 files of 0 MB; a submission is far smaller.") == 2
    assert not path.exists()


def test_years_without_a_number_of_clips(evaluation, package):
    """2022: scores and decisions must name the same clips; which ones, only the clips tell."""
    dataset = find_dataset("DCASE2022T2")
    csvs = {
        "anomaly_score": b"section_03_0000.wav,1.5\nsection_03_0001.wav,2\n",
        "decision_result": b"section_03_0000.wav,1\n",
    }
    files = {f"{SYSTEM}/{kind}_fan_section_03_test.csv": contents for kind, contents in csvs.items()}
    problems = [problem for problem in find_problems(files, dataset, evaluation.data) if "fan_section_03" in problem]
    assert problems == [
        f"{SYSTEM}/decision_result_fan_section_03_test.csv: "
        "no line for the clips of the anomaly scores: section_03_0001.wav."
    ]


def test_a_file_twice(evaluation, package, tmp_path):
    path = tmp_path / "twice.zip"
    with zipfile.ZipFile(path, "w") as file, pytest.warns(UserWarning, match="Duplicate name"):
        for name in (META, META):
            file.writestr(name, package[name])
    assert f"{META}: is in the zip twice. Keep one." in read_package(path)[1]


@pytest.mark.parametrize(
    "arguments",
    [[], ["DCASE2024T2"], ["validate", "DCASE2024T2"], ["DCASE2024", "a.yaml"], ["DCASE2024T2", "a.yaml", "-d"]],
)
def test_wrong_arguments(arguments, capsys):
    assert run_command(lambda: make_submission.main(arguments)) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_it_says_what_names_were_compared_with(evaluation, capsys):
    assert submit(evaluation, "validate", evaluation.directory / "made.zip") == 0
    said = capsys.readouterr().out
    assert f"nothing is wrong with {TEAM}_1, {TEAM}_2" in said
    assert "compared with the names that were released; the test clips are not there: 3DPrinter," in said


def test_other_training_of_the_development_models_is_said(evaluation, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_submission, "_training", lambda run: {"epochs": 100 if run.config.dev else 8, "seed": 1})
    assert submit(evaluation, evaluation.directory / "submission.yaml", "--output", tmp_path / "a.zip") == 0
    assert "warning: MSE: models of development and evaluation data differ in epochs." in capsys.readouterr().err


def test_training_of_a_run(trained, tmp_path):
    run = Run(load_config(["--dataset", "DCASE2024T2", "-d", *trained.options]), DATASET)
    found = make_submission._training(run)
    assert (found["epochs"], found["seed"], found["frames"]) == (3, 13711, 5)
    assert make_submission._training(Run(load_of(Workspace(tmp_path)), DATASET)) is None
