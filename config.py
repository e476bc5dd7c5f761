"""baseline.yaml and the command line → Config; RunPaths, where every output path is made."""

import argparse
import dataclasses
import difflib
import os
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

ROOT = Path(__file__).resolve().parent
DEFAULTS_FILE = ROOT / "baseline.yaml"
DEEPEST_YAML = 20  # levels


class BaselineError(Exception):
    """Something the user can put right. The message says what is wrong, where, and what to do."""


class UsageError(BaselineError):
    """A wrong option, key or value."""


def load_yaml(text: str) -> Any:
    """The contents of a YAML file: plain values only, and none that are nested or repeated without measure.

    Raises:
        yaml.YAMLError: it is not such a file.
        ValueError: a value is none, such as the 31st of February.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    for event in yaml.parse(text, Loader=loader):  # the loader itself would run out of stack
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST_YAML:
            raise yaml.YAMLError(f"line {event.start_mark.line + 1}: nested too deeply")
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"line {event.start_mark.line + 1}: *{event.anchor} is an alias. Write the value out")
    try:
        return yaml.load(text, Loader=loader)
    except (AttributeError, LookupError) as error:  # a value that is not of the type that its tag names
        raise yaml.YAMLError(f"a value does not go with its tag ({error!r})") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'fan'?` for the known name that is nearest to `name`, else an empty string."""
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=0.5)
    return f" Did you mean '{by_lower_case[matches[0]]}'?" if matches else ""


def _option(text: str, **rules: Any) -> Any:
    """A parameter whose value comes from baseline.yaml and may be overridden on the command line.

    Rules: least, above, most, below (limits of the value), among (the values it may have), name (it becomes part of a
    directory name), empty (it may be empty), alias (a second name), flag (an option without a value: its short form).
    """
    rule_names = "least", "above", "most", "below", "among", "alias", "flag", "name", "empty", "command_line_only"
    none = dict.fromkeys(rule_names)
    return dataclasses.field(metadata=none | {"text": text} | rules)


def _argument(text: str, default: Any = dataclasses.MISSING, **rules: Any) -> Any:
    """A parameter that is given on the command line only."""
    return dataclasses.field(default=default, metadata=_option(text, command_line_only=True, **rules).metadata)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All parameters of a run. Units and meaning of the options with a default value are in baseline.yaml."""

    dataset: str = _argument("dataset and machine type, such as DCASE2024T2fan")
    dev: bool = _argument("use the development dataset", False, flag="-d")
    eval: bool = _argument("use the evaluation dataset", False, flag="-e")
    use_ids: tuple[int, ...] = _argument("sections of this model (default: all)", (), least=0)
    mono: bool | None = _argument("clips have one channel; False: two (default: what the dataset says)", None)
    model_name_suffix: str = _argument("tag of this run in directory names", "", name=True, empty=True, alias="-tag")
    train_only: bool = _argument("train, do not test", False, flag="")
    test_only: bool = _argument("test the trained model", False, flag="")
    restart: bool = _argument("go on with an interrupted training from its last finished epoch", False, flag="")
    or_anew: bool = _argument("with --restart: train anew where the checkpoint is of another training", False, flag="")
    checkpoint_path: Path | None = _argument("checkpoint that --restart goes on from (default: the model's own)", None)

    dataset_directory: Path = _option("directory of the datasets")
    model_directory: Path = _option("directory of the trained models")
    result_directory: Path = _option("directory of the results")
    cache_directory: Path | None = _option("directory of the cached features (default: beside the clips)")
    export_dir: str = _option("name of this experiment in directory names", name=True)
    model: str = _option("network")
    score: str = _option("anomaly score, MSE, MAHALA or MAHALA_FRAME")
    seed: int = _option("seed of all random generators", least=0, most=2**32 - 1)
    use_cuda: bool = _option("use the GPU where there is one")
    gpu_id: int = _option("which GPU", least=0)
    log_interval: int = _option("batches between updates of the progress bar", least=1)
    is_auto_download: bool = _option("fetch a machine type's clips where they are not there")
    download_url: str | None = _option("mirror to download from")
    max_fpr: float = _option("false positive rate up to which pAUC counts", above=0, most=1)
    decision_threshold: float = _option("quantile of normal scores that is the threshold", above=0, below=1)
    calibration: str = _option("whose normal scores that is: batch or clip", among=("batch", "clip"))
    n_mels: int = _option("mel bands", least=1)
    frames: int = _option("frames in one vector", least=1)
    frame_hop_length: int = _option("frames from one vector to the next", least=1)
    n_fft: int = _option("FFT length, samples", least=2)
    hop_length: int = _option("samples from one frame to the next", least=1)
    power: float = _option("exponent of the magnitude spectrogram", above=0)
    fmin: float = _option("lower edge of the mel bands, Hz", least=0)
    fmax: float | None = _option("upper edge of the mel bands, Hz, or null", above=0)
    win_length: int | None = _option("window length, samples, or null", least=1)
    batch_size: int = _option("vectors in a batch", least=2)  # BatchNorm needs two
    epochs: int = _option("passes over the training vectors", least=1)
    learning_rate: float = _option("learning rate of Adam", above=0, alias="-lr")
    shuffle: bool = _option("new order of the training vectors each epoch")
    validation_split: float = _option("share of the vectors held out for validation", above=0, below=1)

    @property
    def split(self) -> str:
        """`dev` or `eval`."""
        return "dev" if self.dev else "eval"

    def as_dict(self, keys: Iterable[str] | None = None) -> dict[str, Any]:
        """The parameters (those of `keys`, default all) as plain values that YAML and JSON can hold."""
        plain = {Path: str, tuple: list}
        names = keys or [field.name for field in dataclasses.fields(self)]
        values = {name: getattr(self, name) for name in names}
        return {k: next((to(v) for kind, to in plain.items() if isinstance(v, kind)), v) for k, v in values.items()}

    def as_arguments(self, leave_out: Iterable[str] = ()) -> list[str]:
        """The command line that gives just this configuration, whatever baseline.yaml holds by then."""
        arguments = []
        for name, value in self.as_dict(name for name in FIELDS if name not in leave_out).items():
            if FIELDS[name].metadata["flag"] is not None:
                arguments += [f"--{name}"] if value else []
            elif isinstance(value, list):
                arguments += [f"--{name}", *map(str, value)] if value else []
            else:
                arguments.append(f"--{name}={'null' if value is None else value}")
        return arguments


FIELDS = {field.name: field for field in dataclasses.fields(Config)}
TYPES = typing.get_type_hints(Config)

# What the log-mel spectrogram of a clip depends on.
FEATURE_KEYS = ("n_mels", "n_fft", "hop_length", "power", "fmin", "fmax", "win_length")
# What a trained model's input depends on: training and testing must agree in these.
MODEL_KEYS = ("model", "frames", "frame_hop_length", *FEATURE_KEYS)
# What the course of a training depends on, besides its clips: --restart must agree in these.
TRAINING_KEYS = (*MODEL_KEYS, "seed", "batch_size", "learning_rate", "shuffle", "validation_split")
# What the results of a test depend on, besides its clips and the model.
TEST_KEYS = (*MODEL_KEYS, "score", "max_fpr", "decision_threshold", "calibration")


def load_config(arguments: Sequence[str] | None = None, defaults_file: Path = DEFAULTS_FILE) -> Config:
    """The configuration of a run: `defaults_file`, overridden by the command line (default: this process's).

    Raises:
        UsageError: an unknown key or option, a missing one, or a value of the wrong type or out of range.
    """
    description = "Trains the autoencoder of one machine type on normal clips, then scores the test clips."
    return parse_options(option_parser("train.py", description), arguments, defaults_file)[1]


def option_parser(prog: str, description: str, options: Iterable[str] | None = None) -> argparse.ArgumentParser:
    """A parser with these parameters of Config as options (default: all); a tool adds arguments of its own.

    What a tool adds by the name of a parameter, such as a positional `dataset`, is a value of that parameter.
    """
    parser = _Parser(
        prog=prog,
        description=description,
        epilog="Default values, units and meanings: baseline.yaml.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    groups = {
        True: parser.add_argument_group("command line only"),
        False: parser.add_argument_group("also in baseline.yaml"),
    }
    for name in FIELDS if options is None else options:
        field = FIELDS[name]
        group, rules = groups[bool(field.metadata["command_line_only"])], field.metadata
        flags = [flag for flag in (_alias(field), f"--{name}") if flag]
        if rules["flag"] is not None:
            group.add_argument(*flags, action="store_true", help=rules["text"])
        else:
            several = {"nargs": "+"} if TYPES[name] == tuple[int, ...] else {}
            group.add_argument(*flags, help=rules["text"], metavar=_describe(TYPES[name]), dest=name, **several)
    return parser


def parse_options(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None, defaults_file: Path = DEFAULTS_FILE
) -> tuple[argparse.Namespace, Config]:
    """A tool's own arguments, and the configuration; see load_config."""
    parsed, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        option = next((text for text in unknown if text.startswith("-")), unknown[0])
        raise UsageError(f"unknown option '{option}'.{nearest(option, parser.flags())} See --help.")
    texts = {name: value for name, value in vars(parsed).items() if name in FIELDS}
    given = {name: _convert(name, text, origin=f"--{name}", base=Path.cwd()) for name, text in texts.items()}
    all_given = all(name in given for name, field in FIELDS.items() if not field.metadata["command_line_only"])
    values = ({} if all_given else _read_defaults(defaults_file)) | given
    missing = [name for name in FIELDS if name not in values and FIELDS[name].default is dataclasses.MISSING]
    if missing:
        where = "is required" if FIELDS[missing[0]].metadata["command_line_only"] else f"is missing in {defaults_file}"
        raise UsageError(f"--{missing[0]} ({FIELDS[missing[0]].metadata['text']}) {where}.")
    config = Config(**values)
    _check_together(config)
    return argparse.Namespace(**{name: v for name, v in vars(parsed).items() if name not in FIELDS}), config


def seeds_of_environment() -> tuple[int, ...]:
    """The seeds that the environment variable SEEDS names, such as `1 2 3`; none where it does not.

    Raises:
        UsageError: one of them cannot be a seed.
    """
    texts = os.environ.get("SEEDS", "").replace(",", " ").split()
    return tuple(dict.fromkeys(_convert("seed", text, origin="SEEDS", base=Path()) for text in texts))


def cores() -> int:
    """How many cores this run may use: its share of them where JOBS runs go side by side."""
    import joblib  # knows of limits of containers, too

    available, jobs = joblib.cpu_count(), os.environ.get("JOBS", "")
    allocated = os.environ.get("SLURM_CPUS_ON_NODE", "")
    if allocated.isdecimal():  # not every cluster keeps a job from the node's other cores
        available = min(available, int(allocated))
    return max(1, available // int(jobs)) if jobs.isdecimal() and int(jobs) else available


def _check_together(config: Config) -> None:
    if config.dev == config.eval:
        raise UsageError("give either -d (development dataset) or -e (evaluation dataset), and not both.")
    if config.train_only and config.test_only:
        raise UsageError("--train_only and --test_only exclude each other; leave both out to train and then test.")
    if config.or_anew and not config.restart:
        raise UsageError("--or_anew goes with --restart; without it each training is a new one.")
    if config.checkpoint_path and not config.restart:
        raise UsageError("--checkpoint_path names what --restart goes on from: give both, or neither.")
    if config.win_length is not None and config.win_length > config.n_fft:
        raise UsageError(f"--win_length {config.win_length} must not be larger than --n_fft {config.n_fft}.")
    if config.fmax is not None and config.fmax <= config.fmin:
        raise UsageError(f"--fmax {config.fmax} must be larger than --fmin {config.fmin}.")
    if config.download_url is not None and not config.download_url.startswith(("http://", "https://")):
        raise UsageError(
            f"--download_url {config.download_url}: expected an address such as https://mirror.example.org."
        )


def read_texts(path: Path) -> list[tuple[str, Any]]:
    """Keys and values of a YAML file that has one on each line, each value as the text that stands there.

    They are read as those of a command line are; YAML itself would make 8 of 010 and 3600 of 1:00:00, and keep the
    last of two equal keys without a word.

    Raises:
        UsageError: it is not such a file.
    """
    try:
        text = path.read_text(encoding="utf-8")
        load_yaml(text)
        document = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if document is None:
        return []
    if not isinstance(document, yaml.MappingNode):
        raise UsageError(f"{path} must hold lines of a key and a value, such as 'epochs: 100'.")
    return [(key.value, node.value) for key, node in document.value]


def _read_defaults(path: Path) -> dict[str, Any]:
    names = {alias: name for name, field in FIELDS.items() for alias in (name, _alias(field).lstrip("-"))}
    values = {}
    for key, value in read_texts(path):
        name = names.get(str(key).lstrip("-"))
        if name is None:
            raise UsageError(f"{path}: unknown key '{key}'.{nearest(str(key), _keys())}")
        if FIELDS[name].metadata["command_line_only"]:
            raise UsageError(f"{path}: '{key}' can only be given on the command line.")
        if name in values:
            raise UsageError(f"{path}: '{key}' is there twice. Keep one of them.")
        if not isinstance(value, str):
            raise UsageError(f"{path}: {key}: expected a single value, {_describe(TYPES[name])}.")
        values[name] = _convert(name, value, origin=f"{path}: {key}", base=path.parent)
    return values


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See --help.")

    def flags(self) -> list[str]:
        return [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]


def _alias(field: dataclasses.Field) -> str:
    return field.metadata["flag"] or field.metadata["alias"] or ""


def _keys() -> list[str]:
    return [f"--{name}" for name, field in FIELDS.items() if not field.metadata["command_line_only"]]


def _describe(kind: Any) -> str:
    names = {bool: "True|False", int: "integer", float: "number", str: "text", Path: "path", types.NoneType: "null"}
    if kind == tuple[int, ...]:
        return names[int]
    return "|".join(names[part] for part in (typing.get_args(kind) or (kind,)))


def _convert(name: str, value: str | bool | list[str], origin: str, base: Path) -> Any:
    """A text from baseline.yaml or the command line as a value in the type and range of parameter `name`."""
    kind, rules = TYPES[name], FIELDS[name].metadata
    if kind == tuple[int, ...]:
        return tuple(dict.fromkeys(_check_range(_parse(part, int, origin), rules, origin) for part in value))
    alternatives = typing.get_args(kind) or (kind,)
    if types.NoneType in alternatives and str(value).lower() in ("null", "none", "~", ""):
        return None
    parsed = _check_range(_parse(str(value).strip(), alternatives[0], origin), rules, origin)
    return base / parsed if isinstance(parsed, Path) else parsed


def _parse(text: str, kind: type, origin: str) -> Any:
    try:
        if kind is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        if kind is Path and "\0" not in text:
            text.encode()  # names in other encodings could not be written into the files that a run leaves
            return Path(text).expanduser()
        return {int: int, float: float, str: str}[kind](text)
    except (KeyError, ValueError, RuntimeError):  # RuntimeError: no such home directory
        raise UsageError(f"{origin}: '{text}' is not allowed; expected {_describe(kind)}.") from None


def _check_range(value: Any, rules: typing.Mapping, origin: str) -> Any:
    limits = {"at least": rules["least"], "above": rules["above"], "at most": rules["most"], "below": rules["below"]}
    holds = {
        "at least": lambda limit: value >= limit,
        "above": lambda limit: value > limit,
        "at most": lambda limit: value <= limit,
        "below": lambda limit: value < limit,
    }
    limits = {words: limit for words, limit in limits.items() if limit is not None}
    infinite = isinstance(value, float) and value - value != 0  # inf or nan
    if infinite or not all(holds[words](limit) for words, limit in limits.items()):
        allowed = " and ".join(f"{words} {limit}" for words, limit in limits.items()) or "a finite number"
        raise UsageError(f"{origin}: {value} is out of range; allowed: {allowed}.")
    if rules["among"] and value not in rules["among"]:
        allowed = " or ".join(rules["among"])
        raise UsageError(f"{origin}: '{value}' is not allowed; expected {allowed}.{nearest(value, rules['among'])}")
    if rules["name"] and (value in (".", "..") or any(c in "/\\" or not c.isprintable() for c in value)):
        raise UsageError(f"{origin}: {value!r} becomes part of a directory name; it must not contain '/' or be '..'.")
    if value in ("", Path()) and not rules["empty"]:
        raise UsageError(f"{origin}: a value is missing.")
    return value
