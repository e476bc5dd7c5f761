"""Build a challenge submission from evaluation results and a small YAML file, or validate one made elsewhere.

    python tools/make_submission.py DCASE2024T2 submission.yaml [--output submission.zip]
    python tools/make_submission.py validate DCASE2024T2 package.zip

docs/submission.yaml is an example of the first one's file, with its keys explained. A package is written only when
nothing is wrong with it. Source: the submission section of the challenge's page, see tools/results/submission_rules.py.
"""

import signal
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # found from any directory
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while the imports take their time

import yaml

from config import TRAINING_KEYS, BaselineError, Config, UsageError, nearest, option_parser, parse_options
from datasets.catalog import Dataset, dataset_names, find_dataset
from files import atomic_path
from tools.results.official import means_over_sections
from tools.results.runs import Run, run_of_directory
from tools.results.submission_rules import (
    DESCRIPTION,
    MOST_SYSTEMS,
    TASK,
    check_size,
    find_problems,
    read_package,
    released_clips,
)
from tools.training.console import log, open_console, run_command

OPTIONS = ("dataset", "eval", "dataset_directory", "model_directory")
KEYS = ("label", "report", "authors", "systems", "description", "external_datasets", "source_code")
SYSTEM_KEYS = ("name", "abbreviation", "results")
OWN_KEYS = ("description", "complexity", "development_results", "external_datasets", "source_code")  # of a system
EXAMPLE_LABEL = "Lastname_Institute"  # of docs/submission.yaml
CLIP_SECONDS = 10  # of the clip whose operations are counted


def build(path: Path, dataset: Dataset, config: Config) -> dict[str, bytes]:
    """The files of a submission: path within the package → contents.

    Args:
        path: a file like docs/submission.yaml.

    Raises:
        BaselineError: it lacks something, or what it names is not there.
    """
    wanted = _read(path)
    files = {}
    for number, system in enumerate(wanted["systems"], start=1):
        label = f"{wanted['label']}_{TASK}_{number}"
        directory = path.parent / str(system["results"])
        other = directory.absolute().parent.name
        if other != dataset.name and other in dataset_names():
            raise BaselineError(f"{path}: {directory} has results of {other}, and not of {dataset.name}.")
        run = run_of_directory(directory, config, dataset)
        if run and run.config.dev:
            raise BaselineError(f"{path}: {directory} has results of the development data. Name those of eval_data.")
        results = sorted(
            each for kind in ("anomaly_score", "decision_result") for each in directory.glob(f"{kind}_*.csv")
        )
        if not results:
            raise BaselineError(
                f"{directory}: no anomaly_score_*.csv there. Run {dataset.script('02a_test', 'eval')} first, or name "
                f"another folder in {path}."
            )
        meta = meta_data(wanted, system, label, run, path)
        files[f"{TASK}/{label}/{label}.meta.yaml"] = yaml.safe_dump(meta, sort_keys=False, allow_unicode=True).encode()
        files |= {f"{TASK}/{label}/{each.name}": _contents(each) for each in results}
    report = path.parent / str(wanted["report"])
    return files | {f"{TASK}/{wanted['label']}_{TASK}.technical_report.pdf": _contents(report)}


def meta_data(
    wanted: Mapping[str, Any], system: Mapping[str, Any], label: str, run: Run | None, path: Path
) -> dict[str, Any]:
    """The meta data of a system, in the form that the challenge asks for.

    Args:
        run: whose results it is made of; None: another program's.

    Raises:
        BaselineError: something is neither said in the file at `path` nor can be worked out.
    """
    worked_out = {"complexity": complexity, "development_results": development_results}
    for key in worked_out:
        if run is None and key not in system:
            raise BaselineError(
                f"{path}: {system['name']}: {system['results']} is not a results folder of this project, so that "
                f"`{key}` cannot be worked out. Add it."
            )
    values = {key: system[key] if key in system else work_out(run) for key, work_out in worked_out.items()}
    return {
        "submission": {
            "label": label,
            "name": system["name"],
            "abbreviation": system["abbreviation"],
            "authors": wanted["authors"],
        },
        "system": {
            "description": wanted["description"] | system.get("description", {}),
            "complexity": values["complexity"],
        },
        "external_datasets": system.get("external_datasets", wanted["external_datasets"]),
        "source_code": system.get("source_code", wanted["source_code"]),
        "results": {"development_dataset": values["development_results"]},
    }


def complexity(run: Run) -> dict[str, Any]:
    """How many parameters are trained, and the multiply-accumulate operations for a clip of CLIP_SECONDS.

    Raises:
        BaselineError: there is no model with its record.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from networks import make_network
    from tools.training.model_files import read_record

    machine = next(iter(run.machines.values()))
    paths = next(iter(run.models(machine)), run.paths(machine))
    record = read_record(paths)
    if record is None or "sampling_rate" not in record:
        raise BaselineError(
            f"{paths.config_record}: missing, or of an older version, so that the network's complexity cannot be "
            "worked out. Name the models' place with --model_directory, or add `complexity` to the system."
        )
    network = make_network(record["model"], record["frames"] * record["n_mels"], record["n_mels"]).eval()
    n_frames = 1 + CLIP_SECONDS * record["sampling_rate"] // record["hop_length"]
    n_vectors = 1 + (n_frames - record["frames"]) // record["frame_hop_length"]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(n_vectors, record["frames"] * record["n_mels"]))
    parameters = sum(values.numel() for values in network.parameters() if values.requires_grad)
    macs = counter.get_total_flops() / 2
    return {"total_parameters": parameters, "MACS": f"{macs / 1e6:.1f} M"}


def development_results(run: Run) -> dict[str, dict[str, float]]:
    """The metrics of each machine type of the development data, in percent, of the same system.

    Models that were trained otherwise are warned of.

    Raises:
        BaselineError: some are not there.
    """
    of_dev = Run(replace(run.config, dev=True, eval=False), run.dataset)
    trainings = [_training(each) for each in (run, of_dev)]
    if None not in trainings and trainings[0] != trainings[1]:
        differing = [key for key, value in trainings[0].items() if trainings[1][key] != value]
        log.warning("%s: models of development and evaluation data differ in %s.", run.system, ", ".join(differing))
    means = means_over_sections(of_dev.metrics(), run.dataset, "dev")["value"]
    metrics = {"auc_source": "AUC (source)", "auc_target": "AUC (target)", "pauc": "pAUC"}
    found = {
        name: {key: round(100 * float(means[metric][name]), 2) for key, metric in metrics.items() if metric in means}
        for name in of_dev.machines
    }
    lacking = [name for name, values in found.items() if not all(value == value for value in values.values())]
    if lacking:
        where = of_dev.paths(of_dev.machines[lacking[0]]).metrics
        raise BaselineError(
            f"{where}: no results of {run.system} on the development data of {', '.join(lacking)}. Run "
            f"{run.dataset.script('01_train', 'dev')} and the test with the same options, or add `development_results`."
        )
    return found


def _training(run: Run) -> dict[str, Any] | None:
    """The parameters that the models of a run were trained with, says the first one's record; None: there is none."""
    from tools.training.model_files import read_record

    paths = next((paths for machine in run.machines.values() for paths in run.models(machine)), None)
    record = read_record(paths) if paths else None
    return record and {key: record.get(key) for key in ("epochs", *TRAINING_KEYS)}


def _read(path: Path) -> dict[str, Any]:
    """The user's file, checked for its form; what the values say is checked in the finished package."""
    try:
        wanted = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BaselineError(f"cannot read {path}: {error.strerror}. docs/submission.yaml is an example.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise BaselineError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    _check_keys(wanted, KEYS, KEYS, str(path))
    if wanted["label"] == EXAMPLE_LABEL:
        raise BaselineError(f"{path}: `label` is that of the example. Put in your own name and institute, and so on.")
    _check_keys(wanted["description"], DESCRIPTION, DESCRIPTION, f"{path}: description")
    systems = wanted["systems"]
    if not isinstance(systems, list) or not 1 <= len(systems) <= MOST_SYSTEMS:
        raise BaselineError(f"{path}: `systems` is a list of 1 to {MOST_SYSTEMS} systems.")
    for number, system in enumerate(systems, start=1):
        _check_keys(system, SYSTEM_KEYS, (*SYSTEM_KEYS, *OWN_KEYS), f"{path}: system {number}")
        _check_keys(system.get("description", {}), (), DESCRIPTION, f"{path}: description of system {number}")
    return wanted


def _check_keys(values: Any, needed: tuple[str, ...], known: tuple[str, ...], where: str) -> None:
    if not isinstance(values, dict):
        raise BaselineError(
            f"{where}: expected keys and values: {', '.join(known)}. docs/submission.yaml is an example."
        )
    for key in values:
        if key not in known:
            raise BaselineError(f"{where}: unknown key '{key}'.{nearest(str(key), known)}")
    for key in needed:
        if key not in values:
            raise BaselineError(f"{where}: the key '{key}' is missing. docs/submission.yaml is an example.")


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
        reason = getattr(error, "strerror", None) or error
        raise BaselineError(f"cannot read {path}: {reason}. Mend that, or name another file.") from error


def write_package(files: Mapping[str, bytes], path: Path) -> None:
    """Write a zip, complete or not at all; the same files make the same zip."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as package:
        for name, contents in files.items():
            member = zipfile.ZipInfo(name)  # of 1980, whenever it is made
            member.external_attr = 0o644 << 16
            package.writestr(member, contents, zipfile.ZIP_DEFLATED)


def main(arguments: list[str] | None = None) -> bool:
    """Run the command; whether the package is as it should be."""
    arguments = sys.argv[1:] if arguments is None else arguments
    is_validation = arguments[:1] == ["validate"]
    parser = option_parser("make_submission.py [validate]", "Builds or validates a challenge submission.", OPTIONS)
    parser.add_argument("dataset", help="such as DCASE2024T2")
    parser.add_argument("file", type=Path, help="a file like docs/submission.yaml; to validate: a zip, or its folder")
    if not is_validation:
        parser.add_argument("--output", type=Path, default=None, help="the package (default: beside the YAML file)")
    open_console()
    # It is made of the evaluation data always.
    options, config = parse_options(parser, ["-e", *(arguments[1:] if is_validation else arguments)])
    dataset = find_dataset(config.dataset)
    if not dataset.tested("eval"):
        raise UsageError(f"{dataset.name} has no evaluation data.")
    if is_validation:
        path = options.file
        files, problems = read_package(path)
    else:
        path = options.output or options.file.with_suffix(".zip")
        if options.file.suffix == ".zip" or path.suffix != ".zip":
            raise UsageError(
                f"{options.file} -> {path}: a YAML file is made into a .zip. To check one: make_submission.py validate."
            )
        files, problems = build(options.file, dataset, config), []
        check_size(path, [len(contents) for contents in files.values()])
    problems += find_problems(files, dataset, config.dataset_directory)
    for problem in problems:
        log.error("%s", problem)
    if problems:
        number = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        log.error("%s%s.", number, "" if is_validation else "; no package was written")
        return False
    if not is_validation:
        write_package(files, path)
    systems = sorted({PurePosixPath(name).parts[1] for name in files if len(PurePosixPath(name).parts) == 3})
    log.info("%s: nothing is wrong with %s", path, ", ".join(systems))
    unseen = [m.name for m in dataset.tested("eval").values() if not released_clips(m, config.dataset_directory)]
    if unseen:
        names = "the names that were released" if dataset.clips_of_a_section else "each other"
        log.info("Names of clips were compared with %s; the test clips are not there: %s", names, ", ".join(unseen))
    return True


if __name__ == "__main__":
    sys.exit(run_command(main))
