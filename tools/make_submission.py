"""Build a challenge submission from evaluation results and a small YAML file, or validate an existing one.

    python tools/make_submission.py DCASE2024T2 submission.yaml [--output submission.zip]
    python tools/make_submission.py validate DCASE2024T2 package.zip

docs/submission.yaml is an example of the YAML file and explains its keys. A package is written only if it has no
problems. The rules are in tools/results/submission_rules.py and submission_schema.py.
"""

import math
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # imports work from any directory
    from startup import prepare

    prepare()

import yaml

from config import BaselineError, Config, UsageError, option_parser, parse_options
from datasets.catalog import Dataset, find_dataset
from files import atomic_path, check_replaceable
from tools.results.belonging import keep_comparable
from tools.results.official import means_over_sections
from tools.results.runs import Run, run_of_directory
from tools.results.submission_rules import DECISIONS, SCORES, TASK, find_problems, read_package, released_clips
from tools.results.submission_schema import SUBMISSION_FILE, read_yaml
from tools.training.console import log, run_command

OPTIONS = ("dataset", "eval", "dataset_directory", "model_directory")
DATE_IN_PACKAGES = (1980, 1, 1, 0, 0, 0)  # of all files in a package, so that the same files give the same zip
CLIP_SECONDS = 10  # length of the clip that the complexity is computed for


def build(path: Path, dataset: Dataset, config: Config) -> dict[str, bytes]:
    """Build the submission that `path`, a file like docs/submission.yaml, describes.

    Returns:
        Path in the package → contents.

    Raises:
        BaselineError: `path` is not such a file, or names a file or folder that does not exist.
    """
    wanted, problems = read_yaml(_read(path), SUBMISSION_FILE, closed=True)
    if problems:
        raise BaselineError(" ".join(f"{path}{problem}" for problem in problems) + " See docs/submission.yaml.")
    files = {}
    numbers: dict[Path, int] = {}  # results folder → number of its system
    for number, system in enumerate(wanted["systems"], start=1):
        label = f"{wanted['label']}_{TASK}_{number}"
        directory = path.parent / system["results"]
        other = numbers.setdefault(directory.resolve(), number)
        if other != number:
            raise BaselineError(f"{path}: systems {other} and {number} have the same results folder, {directory}.")
        run = _run_of_system(directory, path, dataset, config)
        meta = meta_data(wanted, system, label, run, path)
        files[f"{TASK}/{label}/{label}.meta.yaml"] = yaml.safe_dump(meta, sort_keys=False, allow_unicode=True).encode()
        results = sorted(file for kind in (SCORES, DECISIONS) for file in directory.glob(f"{kind}_*.csv"))
        files |= {f"{TASK}/{label}/{file.name}": _read(file) for file in results}
    files[f"{TASK}/{wanted['label']}_{TASK}.technical_report.pdf"] = _read(path.parent / wanted["report"])
    return files


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: not a possible name
        raise BaselineError(f"cannot read {path}: {error}. docs/submission.yaml is an example.") from error


def _run_of_system(directory: Path, path: Path, dataset: Dataset, config: Config) -> Run | None:
    """The run that wrote the results in `directory`, or None if another program did."""
    run = run_of_directory(directory, config, dataset)
    if run and run.config.dev:
        raise BaselineError(f"{path}: {directory} has results of the development data. Use those in eval_data.")
    if not any(directory.glob(f"{SCORES}_*.csv")):
        raise BaselineError(
            f"{directory}: no {SCORES}_*.csv found. Run {dataset.script('02a_test', 'eval')} first, or use another "
            f"folder in {path}."
        )
    return run


def meta_data(
    wanted: Mapping[str, Any], system: Mapping[str, Any], label: str, run: Run | None, path: Path
) -> dict[str, Any]:
    """The meta data of a system in the format of the challenge.

    Args:
        run: the run with the system's results; None if another program wrote them.

    Raises:
        BaselineError: `path` lacks a value that cannot be computed.
    """
    computed = {"complexity": complexity, "development_results": development_results}
    missing = [key for key in computed if system.get(key) is None]
    if run is None and missing:
        raise BaselineError(
            f"{path}: {system['name']}: {system['results']} is not a results folder of this project, so "
            f"`{'` and `'.join(missing)}` cannot be computed. Add the missing values."
        )
    if run is not None:
        _check_records(run, is_needed=bool(missing))
    values = {**wanted, **system, **{key: computed[key](run) for key in missing}}
    return {
        "submission": {"label": label, **{key: values[key] for key in ("name", "abbreviation", "authors")}},
        "system": {
            "description": wanted["description"] | (system.get("description") or {}),
            "complexity": values["complexity"],
            "external_datasets": values.get("external_datasets"),
            "source_code": values.get("source_code"),
        },
        "results": {"development_dataset": values["development_results"]},
    }


def _check_records(run: Run, is_needed: bool) -> None:
    """Check that the evaluation results and the development results are from the same system.

    Args:
        is_needed: whether meta data are computed from them. If not, a mismatch is only a warning.
    """
    runs, lines = keep_comparable([run, _dev_run(run)])
    if is_needed and any(run.left_out for run in runs):
        raise BaselineError(
            " ".join(lines) + " Train and test both splits with the same code and parameters, or add `complexity` and "
            "`development_results` to the system."
        )
    for line in lines:
        log.warning("%s", line.replace(" left out:", ":"))  # nothing is left out of a package


def _dev_run(run: Run) -> Run:
    return Run(replace(run.config, dev=True, eval=False), run.dataset)


def complexity(run: Run) -> dict[str, Any]:
    """The number of trained parameters, and of multiply-accumulate operations for a clip of CLIP_SECONDS."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from networks import make_network

    records = (run.record(machine, section) for machine in run.machines.values() for section in machine.sections)
    training = next((record["training"] for record in records if record and "model" in record["training"]), None)
    if training is None:
        raise BaselineError(
            f"{run.system}: no test record names the model, so the complexity cannot be computed. Test again, or "
            "add `complexity` to the system."
        )
    network = make_network(training["model"], training["frames"] * training["n_mels"], training["n_mels"]).eval()
    n_frames = 1 + CLIP_SECONDS * training["sampling_rate"] // training["hop_length"]
    n_vectors = 1 + (n_frames - training["frames"]) // training["frame_hop_length"]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(n_vectors, training["frames"] * training["n_mels"]))
    parameters = sum(values.numel() for values in network.parameters() if values.requires_grad)
    macs = counter.get_total_flops() / 2
    return {"total_parameters": parameters, "MACS": f"{macs / 1e6:.1f} M"}


def development_results(run: Run) -> dict[str, dict[str, float]]:
    """The system's results on each machine type of the development data, in percent.

    Raises:
        BaselineError: a result is missing.
    """
    dev_run = _dev_run(run)
    means = means_over_sections(dev_run.metrics(), run.dataset, "dev")["value"]
    metrics = {"auc_source": "AUC (source)", "auc_target": "AUC (target)", "pauc": "pAUC"}
    found = {
        name: {key: round(100 * float(means[metric][name]), 2) for key, metric in metrics.items() if metric in means}
        for name in dev_run.machines
    }
    missing = [name for name, values in found.items() if any(math.isnan(value) for value in values.values())]
    if missing:
        path = dev_run.paths(dev_run.machines[missing[0]]).metrics
        raise BaselineError(
            f"{path}: no results of {run.system} on the development data of {', '.join(missing)}. Run "
            f"{run.dataset.script('01_train', 'dev')} and the test with the same options, or add `development_results`."
        )
    return found


def write_package(files: Mapping[str, bytes], path: Path) -> None:
    """Write a zip file, completely or not at all. The same files give the same zip file."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as package:
        for name, contents in files.items():
            member = zipfile.ZipInfo(name, DATE_IN_PACKAGES)
            member.external_attr = 0o644 << 16
            package.writestr(member, contents, zipfile.ZIP_DEFLATED)


def _is_package(path: Path) -> bool:
    """Whether write_package wrote this file."""
    try:
        with zipfile.ZipFile(path) as package:
            members = package.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return False
    return all(m.date_time == DATE_IN_PACKAGES and m.filename.startswith(f"{TASK}/") for m in members)


def main(arguments: list[str] | None = None) -> bool:
    """Run the command. Returns False if the package has problems."""
    arguments = sys.argv[1:] if arguments is None else arguments
    is_validation = arguments[:1] == ["validate"]
    parser = option_parser("make_submission.py [validate]", "Builds or validates a challenge submission.", OPTIONS)
    parser.add_argument("dataset", help="name of the dataset, such as DCASE2024T2")
    parser.add_argument("file", type=Path, help="a file like docs/submission.yaml; with validate: a zip or its folder")
    if not is_validation:
        parser.add_argument("--output", type=Path, default=None, help="zip file (default: beside the YAML file)")
    # A submission always has results of the evaluation data.
    options, config = parse_options(parser, ["-e", *(arguments[1:] if is_validation else arguments)])
    dataset = find_dataset(config.dataset, config.dataset_directory)
    if not dataset.has_submission:
        raise UsageError(
            f"A submission to {dataset.name} had other file names. Only submissions from 2022 on are supported."
        )
    if not dataset.tested("eval"):
        raise UsageError(f"{dataset.name} has no evaluation data.")
    if is_validation:
        path, files = options.file, read_package(options.file)
    else:
        path = options.output or options.file.with_suffix(".zip")
        check_replaceable(path, _is_package)
        files = build(options.file, dataset, config)
    problems = find_problems(files, dataset, config.dataset_directory)
    for problem in problems:
        log.error("%s", problem)
    if problems:
        log.error("%d problem(s)%s.", len(problems), "" if is_validation else "; no package was written")
        return False
    if not is_validation:
        write_package(files, path)
    systems = sorted({PurePosixPath(name).parts[1] for name in files if len(PurePosixPath(name).parts) == 3})
    log.info("%s: no problems found in %s", path, ", ".join(systems))
    unseen = [m.name for m in dataset.tested("eval").values() if not released_clips(m, config.dataset_directory)]
    if unseen and not dataset.clips_of_a_section:
        log.info("file names were only compared with each other: no test clips of %s on this disk", ", ".join(unseen))
    return True


if __name__ == "__main__":
    sys.exit(run_command(main))
