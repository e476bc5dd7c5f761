"""Building a submission, and validating one: what passes is read by an evaluator, whose score is ours."""

import copy
import itertools
import json
import re
import shutil
import zipfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import yaml
from conftest import ROOT, Workspace, no_handlers_left, write_test
from plain_evaluator import evaluate

from config import load_config
from datasets.catalog import find_dataset
from datasets.clips import Clip
from networks import make_network
from tools import make_submission, summarize
from tools.results.runs import Run
from tools.results.score_files import SectionScores
from tools.results.submission_rules import find_problems, read_package, released_clips
from tools.training.console import run_command
from tools.training.paths import run_paths

DATASET = find_dataset("DCASE2024T2")
MACHINES = list(DATASET.machines["eval"])
TEAM = "Doe_Lab_task2"
SYSTEM = f"task2/{TEAM}_1"
SCORES = f"{SYSTEM}/anomaly_score_HairDryer_section_00_test.csv"
DECISIONS = f"{SYSTEM}/decision_result_HairDryer_section_00_test.csv"
META = f"{SYSTEM}/{TEAM}_1.meta.yaml"
NAMES = [f"section_00_{number:04d}.wav" for number in range(200)]
FROM_1 = ("3DPrinter", "AirCompressor", "Scanner")  # have no clip 0000
COMPLEXITY = {"total_parameters": 267928, "MACS": "81.6 M"}


def names_of(machine):
    return [f"section_00_{number + (machine in FROM_1):04d}.wav" for number in range(200)]


def write_rows(path, names, values):
    """A label file of the organisers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name},{value}\n" for name, value in zip(names, values, strict=True)))


def paths_of(workspace, machine, score, split="dev"):
    arguments = ["--dataset", "DCASE2024T2", f"-{split[0]}", *workspace.options, "--score", score]
    return run_paths(load_config(arguments), DATASET.machines[split][machine], ("00",))


def write_results(workspace):
    """What 01, 02a and 02b leave of both splits, as far as a submission needs it; and the organisers' labels."""
    labels = workspace.data / "dcase2024t2" / "eval_data"
    for split, (score, distance) in itertools.product(("dev", "eval"), (("MSE", 1), ("MAHALA", 1.5))):
        for number, machine in enumerate(DATASET.machines[split]):
            generator = np.random.default_rng(number)
            is_anomaly, is_target = generator.permutation(200) < 100, generator.permutation(200) < 100
            scores = 10 + generator.standard_normal(200) + distance * is_anomaly
            decisions = (scores > 11).astype(int)
            name = f"{machine}_section_00_test.csv"
            names = names_of(machine)
            if split == "eval":
                write_rows(labels / f"ground_truth_data/ground_truth_{name}", names, is_anomaly.astype(int))
                write_rows(labels / f"ground_truth_domain/ground_truth_{name}", names, is_target.astype(int))
            labels_of_clips = zip(names, is_target.tolist(), is_anomaly.tolist(), strict=True)
            clips = [Clip(Path("test", clip), "00", *facts, None) for clip, *facts in labels_of_clips]
            result = SectionScores("00", clips, scores.tolist(), decisions.tolist(), 0.1)
            write_test(paths_of(workspace, machine, score, split), result)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """A workspace with results, and the file of a submission of two systems; tests only read it."""
    workspace = Workspace(tmp_path_factory.mktemp("submission"))
    write_results(workspace)
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
    return read_package(path)


@pytest.fixture
def found(evaluation):
    """The problems of a package, without test clips to compare with."""
    return lambda package: find_problems(package, DATASET, evaluation.data)


@pytest.fixture
def wanted(evaluation, tmp_path):
    """The same file as values, to be changed; what it names is in tmp_path."""
    for name in ("results", "report.pdf"):
        (tmp_path / name).symlink_to(evaluation.directory / name)
    return yaml.safe_load((evaluation.directory / "submission.yaml").read_text())


def submit(workspace, *arguments):
    command = ["validate"] if arguments[0] == "validate" else []
    command += ["DCASE2024T2", *map(str, arguments[len(command) :]), "--dataset_directory", str(workspace.data)]
    with no_handlers_left():
        return run_command(lambda: make_submission.main(command))


def unpack(package, directory):
    for name, contents in package.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(contents)
    return directory


# --- What is built


def test_what_is_built_is_what_was_scored(evaluation, package, tmp_path):
    assert len(package) == 2 * (2 * len(MACHINES) + 1) + 1
    for (number, score), machine in itertools.product(enumerate(("MSE", "MAHALA"), start=1), MACHINES):
        for name in (f"{kind}_{machine}_section_00_test.csv" for kind in ("anomaly_score", "decision_result")):
            original = evaluation.result(score, split="eval") / name
            assert package[f"task2/{TEAM}_{number}/{name}"] == original.read_bytes()
    meta = yaml.safe_load(package[f"task2/{TEAM}_2/{TEAM}_2.meta.yaml"])
    assert (meta["submission"]["label"], meta["submission"]["abbreviation"]) == (f"{TEAM}_2", "AE_MAHALA")
    assert list(meta["system"]) == ["description", "complexity", "external_datasets", "source_code"]
    assert meta["system"]["description"]["machine_learning_method"] == "AE"
    assert "Mahalanobis" in meta["system"]["description"]["decision_making"]
    assert list(meta["results"]["development_dataset"]) == list(DATASET.machines["dev"])
    rows = (evaluation.result("MAHALA") / "result_fan.csv").read_text().splitlines()
    source, target, partial = (round(100 * float(text), 2) for text in rows[1].split(",")[1:4])
    expected = {"auc_source": source, "auc_target": target, "pauc": partial}
    assert meta["results"]["development_dataset"]["fan"] == expected
    again = tmp_path / "again.zip"
    for _ in range(2):  # its own package is replaced
        assert submit(evaluation, evaluation.directory / "submission.yaml", "--output", again) == 0
    assert again.read_bytes() == (evaluation.directory / "made.zip").read_bytes()
    with zipfile.ZipFile(again, "a") as edited:
        edited.writestr("notes.txt", "mine")
    assert submit(evaluation, evaluation.directory / "submission.yaml", "--output", again) == 1
    assert "notes.txt" in zipfile.ZipFile(again).namelist()


def test_the_evaluator_reads_it_and_its_score_is_ours(evaluation, package, tmp_path):
    """Ours: the official score of the summary, from the same CSVs with the organisers' labels."""
    unpack(package, tmp_path)
    summarize.main(["DCASE2024T2", "-e", *evaluation.options, "--resamples", "5"])
    summary = (evaluation.results / "eval_data/baseline/summarize/DCASE2024T2/summary.csv").read_text().splitlines()
    for number, score in enumerate(("MSE", "MAHALA"), start=1):
        line = next(line for line in summary if line.startswith(f"{score},1,official score,mean,"))
        theirs = evaluate(tmp_path / f"task2/{TEAM}_{number}", evaluation.data / "dcase2024t2" / "eval_data", MACHINES)
        assert float(line.split(",")[4]) == pytest.approx(theirs, rel=1e-12)
        assert 0.5 < theirs < 0.9


def test_complexity_of_the_network(trained):
    """That of its linear layers: inputs times outputs, for each of the 309 vectors of 10 s."""
    config = load_config(["--dataset", "DCASE2024T2", "-d", *trained.options])
    found = make_submission.complexity(Run(config, DATASET))
    layers = [(640, 128), *[(128, 128)] * 3, (128, 8), (8, 128), *[(128, 128)] * 3, (128, 640)]
    assert found["MACS"] == f"{309 * sum(i * o for i, o in layers) / 1e6:.1f} M"
    parameters = make_network("DCASE2023T2-AE", 640, 128).parameters()
    assert found["total_parameters"] == sum(values.numel() for values in parameters) - 2 * 128 * 128


def test_results_that_were_made_otherwise_are_refused(evaluation, wanted, tmp_path, capsys):
    """Development results of other parameters, scores of an older model: no package, unless all is said by hand."""
    (tmp_path / "results").unlink()
    shutil.copytree(evaluation.results, tmp_path / "results")
    record = tmp_path / "results/dev_data/baseline_MSE/DCASE2024T2/seed13711/test_fan.json"
    contents = json.loads(record.read_text())
    record.write_text(json.dumps(contents | {"training": contents["training"] | {"learning_rate": 0.1}}))
    (tmp_path / "submission.yaml").write_text(yaml.safe_dump(wanted))
    assert submit(evaluation, tmp_path / "submission.yaml") == 1
    errors = capsys.readouterr().err
    assert "MSE, seed 13711: fan 00 left out: --learning_rate 0.1, not None." in errors
    assert "or add `complexity` and `development_results`" in errors
    models = Workspace(tmp_path)
    models.model("HairDryer", split="eval").mkdir(parents=True)
    (models.model("HairDryer", split="eval") / "model.pth").write_bytes(b"newer")
    arguments = [evaluation.directory / "submission.yaml", "--model_directory", models.models]
    assert submit(evaluation, *arguments, "--output", tmp_path / "a.zip") == 1
    assert "HairDryer 00 left out: tested with an older model, which has been replaced" in capsys.readouterr().err


def test_results_of_another_experiment_seed_and_tag(evaluation, wanted, tmp_path, capsys):
    """Its results on the development data are found by the same names; with a part of them nothing is built."""
    run = "my_MSE_net_MAHALA/DCASE2024T2/seed7_a_b"
    for split in ("dev", "eval"):
        shutil.copytree(evaluation.result("MAHALA", split=split), tmp_path / f"mine/{split}_data/{run}")
    wanted["systems"] = [wanted["systems"][0] | {"results": f"mine/eval_data/{run}"}]
    (tmp_path / "submission.yaml").write_text(yaml.safe_dump(wanted))
    assert submit(evaluation, tmp_path / "submission.yaml") == 0
    (tmp_path / f"mine/dev_data/{run}/result_gearbox.csv").unlink()
    assert submit(evaluation, tmp_path / "submission.yaml") == 1
    error = "no results of MAHALA a_b on the development data of gearbox. Run ./01_train_2024t2.sh -d"
    assert error in capsys.readouterr().err


def test_a_system_made_elsewhere(evaluation, wanted, tmp_path):
    """Its folder has CSVs only; what cannot be worked out is in the file."""
    shutil.copytree(evaluation.result("MSE", split="eval"), tmp_path / "other")
    results = {name: {"auc_source": 70.0, "pauc": 55.0} for name in DATASET.machines["dev"]}
    system = {"name": "Other", "abbreviation": "OTHER", "results": "other", "source_code": "https://example.org"}
    wanted["systems"] = [system | {"complexity": COMPLEXITY, "development_results": results}]
    del wanted["external_datasets"]
    (tmp_path / "submission.yaml").write_text(yaml.safe_dump(wanted))
    assert submit(evaluation, tmp_path / "submission.yaml") == 0
    assert submit(evaluation, "validate", tmp_path / "submission.zip") == 0
    meta = yaml.safe_load(read_package(tmp_path / "submission.zip")[META])
    assert meta["results"]["development_dataset"] == results
    assert (meta["system"]["source_code"], meta["system"]["complexity"]) == ("https://example.org", COMPLEXITY)


def use(wanted, results):
    wanted["systems"][0]["results"] = f"results/{results}"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda w: w.pop("authors"), "submission.yaml: authors is missing. See docs/submission.yaml."),
        (lambda w: w.update(autors=w.pop("authors")), "autors is an unknown key. Did you mean 'authors'?"),
        (lambda w: w.update(systems=5), "systems is not a list."),
        (
            lambda w: w["systems"].extend(copy.deepcopy(w["systems"] * 2)),
            "systems 1 and 3 have the same results folder",
        ),
        (lambda w: w["systems"][1].update(result=1), "systems.1.result is an unknown key. Did you mean 'results'?"),
        (lambda w: w["description"].pop("front_end"), "description.front_end is missing."),
        (lambda w: w["systems"][1].update(description={"x": 1}), "systems.1.description.x is an unknown key."),
        (lambda w: w.update(label="Lastname_Institute"), "label is 'Lastname_Institute'; expected your own"),
        (lambda w: use(w, "dev_data/baseline_MSE/DCASE2024T2/seed13711"), "has results of the development data."),
        (lambda w: use(w, "eval_data/baseline_MSE/DCASE2024T2/seed1"), "no anomaly_score_*.csv found. Run ./02a"),
        (lambda w: use(w, "elsewhere"), "`development_results` cannot be computed."),
        (lambda w: w.update(report="missing.pdf"), "No such file or directory"),
        (lambda w: w["systems"][0].pop("complexity"), "the complexity cannot be computed. Test again"),
    ],
)
def test_what_is_wrong_with_the_file_is_said_and_nothing_written(evaluation, wanted, tmp_path, capsys, change, error):
    (evaluation.results / "elsewhere").mkdir(exist_ok=True)
    shutil.copy(evaluation.result("MSE", split="eval") / SCORES.split("/")[-1], evaluation.results / "elsewhere")
    change(wanted)
    (tmp_path / "submission.yaml").write_text(yaml.safe_dump(wanted))
    assert submit(evaluation, tmp_path / "submission.yaml", "--model_directory", evaluation.models) == 1
    said = capsys.readouterr().err
    assert error in said
    assert "Traceback" not in said
    assert not (tmp_path / "submission.zip").exists()


# --- What is found in a package


def line(text):
    """A change of the line of the third clip."""
    return lambda contents: re.sub(rb"(?m)^section_00_0002\.wav.*$", text.encode(), contents)


def text(old, new):
    return lambda contents: contents.replace(old.encode(), new.encode(), 1)


MISSING = ": no line for the test clips: section_00_0002.wav."
FORM = "is not `clip,value` in UTF-8, without quotation marks or blanks."
NOT_FINITE = ("nan", "-inf", "1e999", "1_0")
NAME = "is not the released name of a test clip, such as section_00_0000.wav."


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        (SCORES, lambda c: b"file,score\n" + c, [f", line 1: 'file' {NAME}"]),
        (SCORES, lambda c: c + b"\n", [f", line 201: '' {FORM}"]),
        (SCORES, lambda c: c.replace(b",", b"\t"), [", lines 1 to 200: 'section_00_0000.wav\\t", " and 197 more."]),
        (SCORES, line("section_00_0002.wav, 1"), [f", line 3: 'section_00_0002.wav, 1' {FORM}"]),
        (SCORES, line('"section_00_0002.wav",1'), [f""", line 3: '"section_00_0002.wav",1' {FORM}""", MISSING]),
        (SCORES, lambda c: b"\xef\xbb\xbf" + c, [f" {FORM}", "0000.wav."]),
        (SCORES, lambda c: c.replace(b"00_0002", b"00_000\xff"), [", line 3: 'section_00_000\ufffd.wav,", MISSING]),
        *((SCORES, line(f"section_00_0002.wav,{v}"), [f", line 3: '{v}' is not a finite number."]) for v in NOT_FINITE),
        (SCORES, line("section_00_0001.wav,1"), [", line 3: 'section_00_0001.wav' is already in line 2", MISSING]),
        (SCORES, line("section_01_0002.wav,1"), [f", line 3: 'section_01_0002.wav' {NAME}", MISSING]),
        (SCORES, line("test/section_00_0002.wav,1"), [f", line 3: 'test/section_00_0002.wav' {NAME}", MISSING]),
        (SCORES, lambda c: b"\n".join(c.split(b"\n")[:199]), [": no line for the test clips: section_00_0199.wav."]),
        (SCORES, lambda c: b"", [f", line 1: '' {FORM}", " and 197 more."]),
        (DECISIONS, line("section_00_0002.wav,1.0"), [", line 3: '1.0' is not a decision, 0 or 1."]),
        (DECISIONS, line("section_00_0002.wav,2"), [", line 3: '2' is not a decision, 0 or 1."]),
        (META, lambda c: b"a: [", [": not valid YAML: "]),
        (META, lambda c: b"text", [": the file has no keys; expected submission, system, results."]),
        (META, text("label: Doe", "label: Roe"), [", line 2: submission.label is 'Roe_Lab_task2_1'; exp"]),
        (META, text("AE_MSE", "AE_MSE_LONG"), [", line 4: submission.abbreviation is 'AE_MSE_LONG'; expected a text"]),
        (META, text("email", "e-mail"), [", line 6: submission.authors.0.email is missing."]),
        (META, text("@", " at "), [", line 11: submission.authors.0.email is 'firstname.la...t example.org';"]),
        (META, text("corresponding: true", "corresponding: yes please"), [", line 5: submission.authors has 0 corr"]),
        (META, text("  description:", "  descriptions:"), [", line 14: system.description is missing."]),
        (META, text("267928", "-1"), [", line 33: system.complexity.total_parameters is -1; expected a number"]),
        (META, text("81.6 M", "some"), [", line 32: system.complexity.MACS is 'some'; expected a number, or a text"]),
        *(
            (META, text("pauc: ", f"pauc: {value} #"), ["expected percent, 0 to 100"])
            for value in (0.5, 101, -2, ".nan")
        ),
    ],
)
def test_each_problem_of_a_file_is_named_with_its_line(found, package, name, change, expected):
    problems = found(package | {name: change(package[name])})
    assert len(problems) == len(expected), problems
    for problem, part in zip(problems, expected, strict=True):
        assert problem.startswith(name), problems
        assert part in problem, problems


def test_what_the_rules_leave_open_is_accepted(found, package):
    """Incomplete results, further keys, and external_datasets and source_code on top, where they once were."""
    meta = yaml.safe_load(package[META])
    authors, results = meta["submission"]["authors"], meta["results"]["development_dataset"]
    del authors[0]["affiliation"]["department"], meta["system"]["external_datasets"], meta["system"]["source_code"]
    del results["valve"], results["fan"]["pauc"]
    results["slider"] = meta["system"]["complexity"]["MACS"] = None
    meta |= {"external_datasets": [], "source_code": None, "further": 1}
    meta["submission"]["abbreviation"] = "TEN_LETTER"
    authors.append(authors[0] | {"corresponding": False})
    assert found(package | {META: yaml.safe_dump(meta).encode()}) == []
    authors.append(authors[0])
    (problem,) = found(package | {META: yaml.safe_dump(meta).encode()})
    assert "submission.authors has 2 corresponding authors" in problem


def renamed(package, old, new):
    return {n.replace(old, new): contents.replace(old.encode(), new.encode()) for n, contents in package.items()}


def without(package, part):
    return {name: contents for name, contents in package.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda p: {}, ["task2/: no report. Put its PDF beside the systems' folders.", "task2/: no system."]),
        (lambda p: without(p, ".pdf"), ["task2/: no report."]),
        (lambda p: without(p, f"{TEAM}_1/"), []),
        *((lambda p, name=name: without(p, name), [f"{name}: missing."]) for name in (SCORES, DECISIONS, META)),
        (lambda p: p | {"task2/report.pdf": b"text"}, ["task2/report.pdf: not a PDF."]),
        (lambda p: p | {"__MACOSX/task2/._a.pdf": b""}, ["__MACOSX/task2/._a.pdf: does not belong there."]),
        (lambda p: p | {f"{SYSTEM}/.DS_Store": b""}, [".DS_Store: not a file of a submission to DCASE2024T2. Remove"]),
        (
            lambda p: renamed(p, "_1/anomaly_score_Ha", "_1/anomaly_score_ha"),
            [f"{SCORES}: missing.", "Did you mean 'anomaly_score_HairDryer_section_00_test.csv'?"],
        ),
        (
            lambda p: {n: p[n.replace("_2/anomaly", "_1/anomaly")].replace(b"\n", b"\r\n") for n in p},
            [f"task2/{TEAM}_2/: the same scores as in {SYSTEM}/."],
        ),
        (lambda p: renamed(p, f"{TEAM}_1", f"{TEAM}_5"), [f"task2/{TEAM}_5/: the name is not a label, <Lastname>_"]),
    ],
)
def test_each_problem_of_the_package_is_named(found, package, change, expected):
    problems = found(change(package))
    assert len(problems) == len(expected), problems
    assert all(part in problem for part, problem in zip(expected, problems, strict=True)), problems


def test_all_problems_are_reported_at_once(evaluation, package, tmp_path, capsys):
    unpack(package | {SCORES: line("")(package[SCORES]), DECISIONS: b""}, tmp_path)
    assert submit(evaluation, "validate", tmp_path) == 1
    said = capsys.readouterr().err
    assert f"error: {SCORES}, line 3: '' {FORM}\nerror: {SCORES}{MISSING}\nerror: {DECISIONS}, line 1: '' " in said
    assert said.endswith("error: 4 problem(s).\n")


def test_lines_are_compared_with_what_was_released(evaluation, package, tmp_path, capsys):
    """The disk may lack clips, or hold others."""
    assert submit(evaluation, "validate", evaluation.directory / "made.zip") == 0
    assert capsys.readouterr().out.endswith(f"no problems found in {TEAM}_1, {TEAM}_2\n")
    directory = DATASET.machines["eval"]["HairDryer"].directory(tmp_path) / "test"
    directory.mkdir(parents=True)
    for name in [*NAMES[:-1], "section_01_0000.wav"]:
        (directory / name).touch()
    assert find_problems(package, DATASET, tmp_path) == []
    short = package | {SCORES: b"".join(package[SCORES].splitlines(keepends=True)[:199])}
    assert find_problems(short, DATASET, tmp_path) == [f"{SCORES}: no line for the test clips: section_00_0199.wav."]


def test_no_more_than_four_systems(package):
    folders = {name: contents for name, contents in package.items() if name.startswith(f"{SYSTEM}/")}
    more = {name.replace(f"{TEAM}_1", f"{TEAM}_{k}"): c for k in (3, 4, 5) for name, c in folders.items()}
    assert "task2/: 5 systems. At most 4 are allowed." in find_problems(package | more, DATASET, Path())


def test_numbers_of_2024_where_no_clips_are(found, package):
    """The test clips of three machine types are numbered 0001 to 0200, the others 0000 to 0199."""
    name = f"{SYSTEM}/anomaly_score_Scanner_section_00_test.csv"
    assert found(package) == []
    problems = found(package | {name: package[SCORES]})
    assert problems == [
        f"{name}, line 1: 'section_00_0000.wav' {NAME.replace('0000', '0001')}",
        f"{name}: no line for the test clips: section_00_0200.wav.",
    ]


def test_clips_on_a_disk_of_other_systems(package, tmp_path):
    """Hidden files are no clips; .WAV is .wav."""
    directory = DATASET.machines["eval"]["HairDryer"].directory(tmp_path) / "test"
    directory.mkdir(parents=True)
    for name in [NAMES[0], NAMES[1].replace(".wav", ".WAV"), f"._{NAMES[2]}", ".DS_Store"]:
        (directory / name).touch()
    assert released_clips(DATASET.machines["eval"]["HairDryer"], tmp_path) == {NAMES[0], NAMES[1]}


def test_years_without_a_number_of_clips(evaluation):
    """2022: scores and decisions must name the same clips; which ones, only the clips tell."""
    place = f"{SYSTEM}/%s_fan_section_03_test.csv"
    scores = b"section_03_0000.wav,1.5\nsection_03_0001.wav,2\nsection_04_0000.wav,2\n"
    files = {place % "anomaly_score": scores, place % "decision_result": b"section_03_0000.wav,1\n"}
    problems = [p for p in find_problems(files, find_dataset("DCASE2022T2"), evaluation.data) if "fan_section_03" in p]
    example = "is not the released name of a test clip, such as section_03_0000.wav."
    assert problems == [
        f"{place % 'anomaly_score'}, line 3: 'section_04_0000.wav' {example}",
        f"{place % 'decision_result'}: no line for the test clips: section_03_0001.wav.",
    ]


@pytest.mark.parametrize("results", [{"fan": 61.2, "average": [60, 55]}, {"fan": {"section_00": {"auc": 0.6}}}, None])
def test_a_package_of_2022(package, tmp_path, results):
    """Its results on the development data have other keys."""
    dataset = find_dataset("DCASE2022T2")
    rows = "".join(f"section_%s_{number:04d}.wav,{number % 2}\n" for number in range(4))
    files = {
        f"{SYSTEM}/{kind}_{machine.name}_section_{section}_test.csv": (rows.replace("%s", section)).encode()
        for machine in dataset.machines["eval"].values()
        for section in machine.sections
        for kind in ("anomaly_score", "decision_result")
    }
    meta = yaml.safe_load(package[META])
    meta["results"]["development_dataset"] = results
    report = {name: contents for name, contents in package.items() if name.endswith(".pdf")}
    assert find_problems(files | report | {META: yaml.safe_dump(meta).encode()}, dataset, tmp_path) == []


@pytest.mark.parametrize("year", [2020, 2021])
@pytest.mark.parametrize("command", [[], ["validate"]])
def test_years_with_files_of_other_names(capsys, year, command):
    assert run_command(lambda: make_submission.main([*command, f"DCASE{year}T2", "none.zip"])) == 2
    assert capsys.readouterr().err == (
        f"error: A submission to DCASE{year}T2 had other file names. Only submissions from 2022 on are supported.\n"
    )


def test_order_of_lines_and_line_ends_do_not_matter(found, evaluation, package, tmp_path):
    changed = package | {SCORES: b"\r\n".join(package[SCORES].split(b"\n")[-2::-1])}
    assert found(changed) == []
    labels = evaluation.data / "dcase2024t2" / "eval_data"
    first, second = (unpack(files, tmp_path / str(len(files[SCORES]))) / SYSTEM for files in (package, changed))
    assert evaluate(first, labels, MACHINES) == evaluate(second, labels, MACHINES)


@hypothesis.given(data=st.data())
def test_what_passes_is_read_by_the_evaluator(evaluation, package, tmp_path_factory, data):
    """Bytes of a file cut, doubled, replaced: either a problem is named, or the evaluator has a score."""
    name = data.draw(st.sampled_from([SCORES, DECISIONS]))
    contents = package[name]
    pieces = [b"", b"\n", b"\r\n", b"0", b"1", b",", b"\t", b" ", b"nan", b"inf", b'"', b"e5", b"-", b"_", b"\xff"]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(contents)))
        end = data.draw(st.integers(start, min(len(contents), start + 30)))
        piece = data.draw(st.sampled_from([*pieces, contents[start:end] * 2]))
        contents = contents[:start] + piece + contents[end:]
    package = without(package, f"{TEAM}_2") | {name: contents}  # one system is enough
    if not find_problems(package, DATASET, evaluation.data):
        directory = unpack(package, tmp_path_factory.mktemp("read"))
        assert evaluate(directory / SYSTEM, evaluation.data / "dcase2024t2" / "eval_data", MACHINES) is not None
        shutil.rmtree(directory)


def test_a_package_that_cannot_be_read(evaluation, tmp_path, capsys):
    original = (evaluation.directory / "made.zip").read_bytes()
    (tmp_path / "damaged.zip").write_bytes(original[:200] + bytes(20) + original[220:])
    (tmp_path / "text.zip").write_text("no zip")
    for name in ("text.zip", "damaged.zip", "none.zip"):
        assert submit(evaluation, "validate", tmp_path / name) == 1
        assert f"{name}: cannot be read (" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["validate", "DCASE2024T2"], ["DCASE2024T2", "a.yaml", "-d"]])
def test_wrong_arguments(arguments, capsys):
    assert run_command(lambda: make_submission.main(arguments)) == 2
    assert capsys.readouterr().err.startswith("error: ")
