"""The YAML files of a submission: their schemas, and a check that reports each problem with its line.

A schema is a dictionary, a list or a function. A dictionary maps keys to schemas; a key with `?` may be missing or
null. A list contains the schema of its items, then functions for the whole list. A function returns a problem or "".

Source: the organisers' template on the challenge's page, and submitted files of 2020 to 2026.
"""

import re
from collections.abc import Callable, Iterator
from reprlib import repr as short_repr
from typing import Any

import yaml

from config import nearest
from datasets.catalog import Dataset


def _expect(what: str, is_right: Callable[[Any], Any]) -> Callable[[Any], str]:
    return lambda value: "" if is_right(value) else f"is {short_repr(value)}; expected {what}."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _one_corresponding(authors: list) -> str:
    found = [isinstance(author, dict) and author.get("corresponding") is True for author in authors]
    return (
        "" if sum(found) == 1 else f"has {sum(found)} corresponding authors; expected one with `corresponding: true`."
    )


ANYTHING = _expect("anything", lambda value: True)
TEXT = _expect("a text", _is_text)
ABBREVIATION = _expect("a text of at most 10 characters", lambda value: _is_text(value) and len(value) <= 10)
ADDRESS = _expect("an address", lambda value: _is_text(value) and re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", value))
PARAMETERS = _expect("a number of parameters", lambda value: _is_number(value) and value > 0)
OPERATIONS = _expect(
    "a number, or a text such as 81.6 M",
    lambda value: value > 0 if _is_number(value) else isinstance(value, str) and re.search(r"\d", value),
)
PERCENT = _expect(
    "percent, 0 to 100, and not a fraction", lambda value: _is_number(value) and (value == 0 or 1 < value <= 100)
)

AFFILIATION = {"institution": TEXT, "department?": ANYTHING, "location": TEXT}
AUTHOR = {"firstname": TEXT, "lastname": TEXT, "email": ADDRESS, "affiliation": AFFILIATION}
RESULTS = {"auc_source?": PERCENT, "auc_target?": PERCENT, "pauc?": PERCENT}
SOURCES = {"external_datasets?": ANYTHING, "source_code?": ANYTHING}
DESCRIPTION = (
    *("input_sampling_rate", "data_augmentation", "front_end", "acoustic_features", "embeddings"),
    *("machine_learning_method", "aggregation_method", "domain_adaptation_method", "domain_generalization_method"),
    *("ensemble_method_subsystem_count", "decision_making", "attribute_usage"),
    *("external_data_usage", "development_data_usage"),
)


def meta_data(label: str, dataset: Dataset) -> dict[str, Any]:
    """The schema of a system's `<label>.meta.yaml`. Other keys are allowed."""
    results = {
        f"{machine.name}?": RESULTS if len(machine.sections) == 1 else ANYTHING  # until 2022: by section
        for machine in dataset.tested("dev").values()
    }
    return {
        "submission": {
            "label": _expect(f"the name of the folder, {label}", lambda value: value == label),
            "name": TEXT,
            "abbreviation": ABBREVIATION,
            "authors": [AUTHOR, _one_corresponding],
        },
        "system": {
            "description": dict.fromkeys(DESCRIPTION, ANYTHING),
            "complexity": {"total_parameters": PARAMETERS, "MACS?": OPERATIONS},
        },
        "results?": {"development_dataset?": results},
    }


# The user's file, see docs/submission.yaml. Parts that are copied to the meta data are checked there.
SYSTEM = {
    "name": ANYTHING,
    "abbreviation": ANYTHING,
    "results": TEXT,
    "description?": {f"{name}?": ANYTHING for name in DESCRIPTION},
    "complexity?": ANYTHING,
    "development_results?": ANYTHING,
    **SOURCES,
}
SUBMISSION_FILE = {
    "label": _expect("your own name and institute", lambda value: value != "Lastname_Institute"),
    "report": TEXT,
    "authors": ANYTHING,
    "systems": [SYSTEM],
    "description": dict.fromkeys(DESCRIPTION, ANYTHING),
    **SOURCES,
}


def read_yaml(contents: bytes, schema: dict[str, Any], closed: bool = False) -> tuple[Any, list[str]]:
    """The values of a YAML file, and their problems: texts that follow the file's name.

    Args:
        closed: whether a key that is not in the schema is a problem.
    """
    try:
        text = contents.decode("utf-8")
        values = yaml.safe_load(text)
        lines = dict(_keys_and_lines(yaml.compose(text, Loader=yaml.SafeLoader)))
        problems = [f"{_line(key, lines)}: {key} {problem}" for key, problem in _check(values, schema, closed)]
    # All but YAMLError: a value does not match its tag or type, or the nesting is too deep.
    except (yaml.YAMLError, ValueError, AttributeError, LookupError, RecursionError) as error:
        return None, [f": not valid YAML: {' '.join(str(error).split())}"]
    return values, problems


def _keys_and_lines(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Keys such as submission.authors.0.email, and their lines."""
    children = []
    if isinstance(node, yaml.MappingNode):
        children = [(key.value, key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(number, item, item) for number, item in enumerate(node.value)]
    for name, start, child in children:
        yield f"{prefix}{name}", start.start_mark.line + 1
        yield from _keys_and_lines(child, f"{prefix}{name}.")


def _line(key: str, lines: dict[str, int]) -> str:
    """`, line 4` of a key, or of the part that lacks it; "" if that is the whole file."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return f", line {lines[key]}" if key else ""


def _check(value: Any, schema: Any, closed: bool, key: str = "") -> Iterator[tuple[str, str]]:
    """Keys and the problems of their values."""
    if callable(schema):
        if problem := schema(value):
            yield key, problem
    elif not isinstance(value, type(schema)):
        what = (
            "is not a list"
            if isinstance(schema, list)
            else f"has no keys; expected {', '.join(schema).replace('?', '')}"
        )
        yield key or "the file", f"{what}."
    elif isinstance(schema, list):
        item_schema, *list_checks = schema
        for number, item in enumerate(value):
            yield from _check(item, item_schema, closed, f"{key}.{number}")
        for check in list_checks:
            yield from _check(value, check, closed, key)
    else:
        prefix = f"{key}." if key else ""
        known = {name.removesuffix("?"): part for name, part in schema.items()}
        for name in value:
            if closed and name not in known:
                yield f"{prefix}{name}", f"is an unknown key.{nearest(str(name), known)}"
        for name, part in known.items():
            may_be_empty = f"{name}?" in schema
            if name not in value and not may_be_empty:
                yield f"{prefix}{name}", "is missing."
            elif value.get(name) is not None or not may_be_empty:
                yield from _check(value[name], part, closed, f"{prefix}{name}")
