"""baseline.yaml and the command line → Config."""

import argparse
import contextlib
import dataclasses
import difflib
import functools
import logging
import operator
import os
import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import yaml

log = logging.getLogger("baseline")

VERSION = "1.0.0"  # also in CITATION.cff and CHANGELOG.md
ROOT = Path(__file__).resolve().parent
DEFAULTS_FILE = ROOT / "baseline.yaml"
DEFAULT_MAX = 100_000_000  # largest number allowed for parameters without their own limit
LIMITS = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le, "below": operator.lt}


class BaselineError(Exception):
    """A problem that the user can fix. The message says what is wrong, where, and what to do."""


class UsageError(BaselineError):
    """An invalid option, key or value."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'fan'?` with the known name closest to `name`, or an empty string."""
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=0.5)
    return f" Did you mean '{by_lower_case[matches[0]]}'?" if matches else ""


def without_password(text: str) -> str:
    """Replace user names, passwords and tokens in URLs by `***`: https://***@mirror.example.org."""
    return re.sub(r"(?<=://)\S*@", "***@", text)  # up to the last @: a password may contain one


# --- Parsers: text from baseline.yaml or the command line → value


def boolean(text: str) -> bool:
    """True or False."""
    values = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in values:
        raise ArgumentTypeError(f"'{text}' is not allowed; expected True or False")
    return values[text.lower()]


boolean.__name__ = "True|False"  # for --help


def path(text: str) -> Path:
    """A path that can be stored in text files."""
    try:
        text.encode()
        if not text or "\0" in text:
            raise ValueError
        return Path(text).expanduser()
    except (ValueError, RuntimeError):  # RuntimeError: no such home directory
        raise ArgumentTypeError(f"{text!r} is not a path") from None


def text(value: str) -> str:
    """A string that is not empty."""
    if not value:
        raise ArgumentTypeError("a value is missing")
    return value


def name(text: str) -> str:
    """A string that can be part of a directory name; it may be empty."""
    if text in (".", "..") or any(c in "/\\" or not c.isprintable() for c in text):
        raise ArgumentTypeError(f"{text!r} cannot be part of a directory name; it must not contain '/' or be '..'")
    return text


def one_of(*allowed: str) -> Callable[[str], str]:
    """One of these strings."""

    def choice(text: str) -> str:
        if text not in allowed:
            raise ArgumentTypeError(f"'{text}' is not allowed; expected {' or '.join(allowed)}")
        return text

    choice.__name__ = "|".join(allowed)
    return choice


def number(kind: type = float, **limits: float) -> Callable[[str], Any]:
    """A finite number of this type, within limits: at_least, above, at_most (default: DEFAULT_MAX), below."""
    if "below" not in limits:
        limits.setdefault("at_most", DEFAULT_MAX)

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise ArgumentTypeError(f"'{text}' is not allowed; expected {parse.__name__}") from None
        if not all(LIMITS[bound](value, limit) for bound, limit in limits.items()):  # also rejects NaN
            allowed = " and ".join(f"{bound.replace('_', ' ')} {limit}" for bound, limit in limits.items())
            raise ArgumentTypeError(f"{value} is out of range; allowed: {allowed}")
        return value

    parse.__name__ = {int: "integer", float: "number"}[kind]
    return parse


def or_null(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """A value of this kind, or None for `null`, `none`, `~` or an empty string."""

    def parse(text: str) -> Any:
        return None if text.lower() in ("null", "none", "~", "") else kind(text)

    parse.__name__ = f"{kind.__name__}|null"
    return parse


# --- Parameters


def _parameter(
    kind: Callable[[str], Any] | None, help_text: str, default: Any = MISSING, alias: str = "", if_missing: str = ""
) -> Any:
    """A parameter of Config.

    Args:
        kind: parser, text → value. None for a flag, which takes no value and is False by default.
        default: default value of an option that exists only on the command line. Other defaults are in baseline.yaml.
        alias: a second name.
        if_missing: default value if the key is not in the file, as in the published baseline's baseline.yaml.
    """
    if kind is None:
        default = False
    metadata = {"kind": kind, "help": help_text, "alias": alias, "if_missing": if_missing}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All parameters of a run. The comments in baseline.yaml and the texts here give their units and meanings."""

    dataset: str = _parameter(text, "dataset and machine type, such as DCASE2024T2fan", None)
    dev: bool = _parameter(None, "use the development dataset", alias="-d")
    eval: bool = _parameter(None, "use the evaluation dataset", alias="-e")
    use_ids: tuple[int, ...] = _parameter(number(int, at_least=0), "sections to use (default: all)", ())
    mono: bool | None = _parameter(
        or_null(boolean), "True: clips have one channel; False: two channels (default: depends on the dataset)", None
    )
    model_name_suffix: str = _parameter(name, "tag added to the names of output directories", "", alias="-tag")
    train_only: bool = _parameter(None, "train, but do not test")
    test_only: bool = _parameter(None, "test a model that is already trained")
    restart: bool = _parameter(None, "resume interrupted training after the last finished epoch")
    checkpoint_path: Path | None = _parameter(
        or_null(path), "checkpoint to resume from with --restart (default: the model's own)", None
    )

    dataset_directory: Path = _parameter(path, "directory that contains the datasets")
    model_directory: Path = _parameter(path, "directory for trained models", if_missing="./models")
    result_directory: Path = _parameter(path, "directory for results")
    cache_directory: Path | None = _parameter(
        or_null(path), "directory for cached features (null: next to the clips)", if_missing="null"
    )
    export_dir: str = _parameter(name, "name of the experiment, part of directory names")
    model: str = _parameter(text, "name of the network")
    score: str = _parameter(text, "anomaly score: MSE, MAHALA or MAHALA_FRAME")
    seed: int = _parameter(number(int, at_least=0, at_most=2**32 - 1), "random seed")
    use_cuda: bool = _parameter(boolean, "use a GPU if available")
    portable: bool = _parameter(
        boolean, "bitwise identical results on every x86-64 processor with AVX2", if_missing="False"
    )
    gpu_id: int = _parameter(number(int, at_least=0), "index of the GPU", if_missing="0")
    log_interval: int = _parameter(number(int, at_least=1), "training batches between updates of the progress bar")
    is_auto_download: bool = _parameter(boolean, "download the clips of a machine type that has none")
    download_url: str | None = _parameter(
        or_null(text), "mirror to download from (null: Zenodo and GitHub)", if_missing="null"
    )
    max_fpr: float = _parameter(number(above=0, at_most=1), "largest false positive rate for pAUC")
    decision_threshold: float = _parameter(number(above=0, below=1), "quantile of normal scores used as the threshold")
    calibration: str = _parameter(
        one_of("batch", "clip"), "fit the threshold to scores of training batches or training clips", if_missing="batch"
    )
    n_mels: int = _parameter(number(int, at_least=1, at_most=10_000), "number of mel bands")
    frames: int = _parameter(number(int, at_least=1, at_most=10_000), "frames per vector")
    frame_hop_length: int = _parameter(number(int, at_least=1), "hop between vectors, in frames")
    n_fft: int = _parameter(number(int, at_least=2, at_most=1_000_000), "FFT length, in samples")
    hop_length: int = _parameter(number(int, at_least=1), "hop between frames, in samples")
    power: float = _parameter(number(at_least=0.01, at_most=100), "exponent of the magnitude spectrogram")
    fmin: float = _parameter(number(at_least=0), "lower edge of the mel bands, in Hz")
    fmax: float | None = _parameter(
        or_null(number(at_least=1)), "upper edge of the mel bands, in Hz (null: half the sampling rate)"
    )
    win_length: int | None = _parameter(or_null(number(int, at_least=1)), "window length, in samples (null: n_fft)")
    batch_size: int = _parameter(number(int, at_least=2), "vectors per batch")  # batch normalisation needs at least two
    epochs: int = _parameter(number(int, at_least=1), "number of training epochs")
    learning_rate: float = _parameter(number(above=0, at_most=1e30), "learning rate of Adam", alias="-lr")
    shuffle: bool = _parameter(boolean, "shuffle the training vectors in each epoch")
    validation_split: float = _parameter(number(above=0, below=1), "fraction of the vectors held out for validation")

    @property
    def split(self) -> str:
        """`dev` or `eval`."""
        return "dev" if self.dev else "eval"

    def as_dict(self, keys: Iterable[str] | None = None) -> dict[str, Any]:
        """The parameters (default: all) as plain values for YAML and JSON files. Passwords in URLs are removed."""
        values = {key: getattr(self, key) for key in keys or FIELDS}
        plain = {Path: str, tuple: list, str: without_password}
        return {k: next((to(v) for kind, to in plain.items() if isinstance(v, kind)), v) for k, v in values.items()}

    def as_arguments(self, leave_out: Iterable[str] = ()) -> list[str]:
        """The command line that gives exactly this configuration, even if baseline.yaml has changed."""
        arguments = []
        for key in (key for key in FIELDS if key not in leave_out):
            value = getattr(self, key)
            if FIELDS[key].metadata["kind"] is None:
                arguments += [f"--{key}"] if value else []
            elif isinstance(value, tuple):
                arguments += [f"--{key}", *map(str, value)] if value else []
            else:
                arguments.append(f"--{key}={'null' if value is None else value}")
        return arguments


FIELDS = {field.name: field for field in dataclasses.fields(Config)}
IN_FILE = [key for key, field in FIELDS.items() if field.default is MISSING]  # the keys of baseline.yaml

# Directories, devices and logging. Results do not depend on them, except for rounding on another device.
NO_RESULT_KEYS = (
    *("dataset_directory", "model_directory", "result_directory", "cache_directory", "export_dir"),
    *("use_cuda", "gpu_id", "log_interval", "is_auto_download", "download_url"),
)
ONLY_TEST_KEYS = ("score", "max_fpr", "decision_threshold", "calibration")
ONLY_TRAINING_KEYS = ("seed", "epochs", "batch_size", "learning_rate", "shuffle", "validation_split")
VECTOR_KEYS = ("model", "frames", "frame_hop_length")
# Parameters that features depend on. A new parameter is included unless it is in one of the lists above.
FEATURE_KEYS = tuple(
    key for key in IN_FILE if key not in (*NO_RESULT_KEYS, *ONLY_TEST_KEYS, *ONLY_TRAINING_KEYS, *VECTOR_KEYS)
)
# Parameters that must be the same in training and test.
MODEL_KEYS = (*VECTOR_KEYS, *FEATURE_KEYS)
# Parameters that training depends on, besides clips and code.
TRAINING_KEYS = (*MODEL_KEYS, *ONLY_TRAINING_KEYS)
# Parameters that test results depend on, besides clips, code and model.
TEST_KEYS = (*MODEL_KEYS, *ONLY_TEST_KEYS)
# Values of MODEL_KEYS that are missing from records of earlier versions.
EARLIER_VALUES = {
    key: FIELDS[key].metadata["kind"](FIELDS[key].metadata["if_missing"])
    for key in MODEL_KEYS
    if FIELDS[key].metadata["if_missing"]
}


class FeatureConfig:
    """The parameters in FEATURE_KEYS, the only ones that features may depend on."""

    def __init__(self, config: Config):
        vars(self).update({key: getattr(config, key) for key in FEATURE_KEYS})

    def __getattr__(self, name: str) -> NoReturn:
        if name not in FIELDS:
            raise AttributeError(name)
        raise BaselineError(
            f"the feature code uses --{name}, but cached features do not depend on it. Remove it from the lists above "
            "FEATURE_KEYS in config.py."
        )


# --- Reading the parameters


def load_config(arguments: Sequence[str] | None = None, defaults_file: Path = DEFAULTS_FILE) -> Config:
    """Read `defaults_file` and the command line, which overrides it.

    Args:
        arguments: command-line arguments (default: those of this process).

    Raises:
        UsageError: a key or option is unknown or missing, or a value has the wrong type or is out of range.
    """
    description = "Train an autoencoder on the normal clips of one machine type, then score its test clips."
    parser = option_parser("train.py", description)
    parser.usage = "train.py --dataset DCASE2024T2fan -d|-e [options]"
    return parse_options(parser, arguments, defaults_file)[1]


def option_parser(prog: str, description: str, options: Iterable[str] | None = None) -> argparse.ArgumentParser:
    """A parser with these parameters of Config as options (default: all). Tools can add their own arguments.

    An argument with the name of a parameter, such as a positional `dataset`, sets that parameter.
    """
    parser = _Parser(
        prog=prog,
        description=description,
        epilog="See baseline.yaml for default values, units and details.",
        allow_abbrev=False,
    )
    command_line_only = parser.add_argument_group("command line only")
    also_in_file = parser.add_argument_group("defaults in baseline.yaml")
    for key in FIELDS if options is None else options:
        group, (kind, help_text, alias) = also_in_file if key in IN_FILE else command_line_only, _metadata(key)
        flags, settings = [flag for flag in (alias, f"--{key}") if flag], {"help": help_text, "dest": key}
        settings["default"] = argparse.SUPPRESS  # options that are not given are read from the file
        if kind is None:
            group.add_argument(*flags, action="store_true", **settings)
        else:
            several = {"nargs": "+"} if key == "use_ids" else {}
            group.add_argument(*flags, type=kind, metavar=kind.__name__, **settings, **several)
    return parser


def parse_options(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None, defaults_file: Path = DEFAULTS_FILE
) -> tuple[argparse.Namespace, Config]:
    """Parse a tool's own arguments and the configuration; see load_config.

    The attribute `given` of the tool's arguments contains the parameters that the command line sets.
    """
    given = _parse(parser, arguments, base=Path.cwd())
    own = argparse.Namespace(**{key: given.pop(key) for key in given.keys() - FIELDS.keys()}, given=dict(given))
    given |= {"use_ids": tuple(dict.fromkeys(given.get("use_ids", ())))}
    defaults = {} if given.keys() >= set(IN_FILE) else read_defaults(defaults_file)
    config = Config(**defaults | given)
    _check_together(config)
    return own, config


def read_defaults(file: Path) -> dict[str, Any]:
    """Read the parameters in a file such as baseline.yaml, with the parsers of the command line.

    YAML's own parser would read 010 as 8, and accept a repeated key.

    Raises:
        UsageError: the file cannot be read, or a key or value is invalid or missing.
    """
    try:
        document = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        lines = [(str(key.value), value.value) for key, value in (document.value if document else ())]
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise UsageError(f"{file} is not valid YAML, such as 'epochs: 100': {' '.join(str(error).split())}") from error
    keys = [key.lstrip("-") for key, _ in lines]
    for key, value in lines:
        if not isinstance(value, str):
            raise UsageError(f"{file}: {key}: expected a single value.")
        if keys.count(key.lstrip("-")) > 1:
            raise UsageError(f"{file}: '{key}' appears twice. Remove one of them.")
    added = {key: default for key in IN_FILE if key not in keys and (default := FIELDS[key].metadata["if_missing"])}
    if added:
        _warn_of_missing_keys(file, ", ".join(f"--{key} ({default})" for key, default in added.items()))
    lines += added.items()
    arguments = [f"{key if key.startswith('-') else '--' + key}={text}" for key, text in lines]
    try:
        values = _parse(option_parser("", "", IN_FILE), arguments, base=file.parent)
    except UsageError as error:
        raise UsageError(f"{file}: {str(error).replace('unknown option', 'unknown key')}") from None
    missing = [f"--{key} ({_metadata(key)[1]})" for key in IN_FILE if key not in values]
    if missing:
        raise UsageError(f"{file}: missing: {', '.join(missing)}.")
    return values


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None, base: Path) -> dict[str, Any]:
    """Parse the arguments. Relative paths in parameters are relative to `base`."""
    parsed, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        option = next((text for text in unknown if text.startswith("-")), unknown[0]).split("=")[0]
        raise UsageError(f"unknown option '{option}'.{nearest(option, parser.flags())} See --help.")
    values = vars(parsed)
    return values | {key: base / value for key, value in values.items() if key in FIELDS and isinstance(value, Path)}


def seeds_of_environment() -> tuple[int, ...]:
    """The seeds in the environment variable SEEDS, such as `1 2 3`; empty if it is not set.

    Raises:
        UsageError: a value is not a valid seed.
    """
    try:
        seeds = map(_metadata("seed")[0], os.environ.get("SEEDS", "").replace(",", " ").split())
        return tuple(dict.fromkeys(seeds))
    except ArgumentTypeError as error:
        raise UsageError(f"SEEDS: {error}.") from None


def cores() -> int:
    """Number of CPU cores that this run may use. With JOBS parallel runs, each gets an equal share."""
    import joblib  # respects the limits of containers

    available, jobs = joblib.cpu_count(), os.environ.get("JOBS", "")
    allocated = os.environ.get("SLURM_CPUS_ON_NODE", "")
    if allocated.isdecimal():  # not every cluster restricts a job to its allocated cores
        available = min(available, int(allocated))
    return max(1, available // int(jobs) if jobs.isdecimal() and int(jobs) else available)


def available_memory() -> float:
    """Available memory in bytes."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    with contextlib.suppress(OSError, ValueError, IndexError):  # Linux
        memory = 1024 * int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0])
    with contextlib.suppress(OSError, ValueError):  # a container's limit; "max" if it has none
        limit, used = (int(Path("/sys/fs/cgroup", name).read_text()) for name in ("memory.max", "memory.current"))
        memory = min(memory, limit - used)
    return memory


def _check_together(config: Config) -> None:
    if not config.dataset:
        raise UsageError(f"--dataset ({FIELDS['dataset'].metadata['help']}) is required.")
    if not config.export_dir:
        raise UsageError("--export_dir: a value is missing.")
    if config.dev == config.eval:
        raise UsageError("use either -d (development dataset) or -e (evaluation dataset), not both.")
    if config.train_only and config.test_only:
        raise UsageError("--train_only and --test_only cannot be combined. Use neither to train and then test.")
    if config.checkpoint_path and not config.restart:
        raise UsageError("--checkpoint_path works only with --restart. Add --restart, or remove --checkpoint_path.")
    if config.win_length is not None and config.win_length > config.n_fft:
        raise UsageError(f"--win_length {config.win_length} must not be larger than --n_fft {config.n_fft}.")
    if config.fmax is not None and config.fmax <= config.fmin:
        raise UsageError(f"--fmax {config.fmax} must be larger than --fmin {config.fmin}.")
    if config.download_url is not None and not _is_url(config.download_url):
        shown = re.split("[?#]", config.download_url.rpartition("@")[2])[0]  # without a password or token
        raise UsageError(
            f"--download_url {shown}: expected a URL such as https://mirror.example.org, without ? or #. Put a user "
            "name and password in ~/.netrc. In the URL, write / in them as %2F, ? as %3F and # as %23."
        )


def _is_url(text: str) -> bool:
    """Whether text is the URL of a server, to which paths can be added."""
    try:
        parts = urlsplit(text)
        is_server = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # such as an invalid port
        return False
    return bool(is_server) and not re.search(r"[?#\s]", text) and "@" not in parts.path


class _Store(argparse.Action):
    """Store a value. If an option is repeated, join lists; otherwise use the last value, with a warning."""

    def __call__(
        self, parser: "_Parser", namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        if option is not None:
            previous = parser.given.get(self.dest, values)
            if isinstance(values, list) and self.dest in parser.given:
                values = [*previous, *values]
            elif previous != values:
                _warn_of_repeated_option(option, previous, values)
            parser.given[self.dest] = values
        setattr(namespace, self.dest, values)


@functools.cache  # warn once, although the options are parsed again for each machine type
def _warn_of_repeated_option(option: str, previous: Any, value: Any) -> None:
    log.warning("%s is given twice, as %r and %r. The last value is used.", option, previous, value)


@functools.cache
def _warn_of_missing_keys(file: Path, keys: str) -> None:
    log.warning("%s does not have %s. These default values are used.", file, keys)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.given: dict[str, Any] = {}  # options given so far in this call
        self.register("action", None, _Store)

    def parse_known_intermixed_args(self, *arguments: Any) -> tuple[argparse.Namespace, list[str]]:
        self.given = {}
        return super().parse_known_intermixed_args(*arguments)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.removeprefix('argument ')}. See --help.")

    def flags(self) -> list[str]:
        return [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]


def _metadata(key: str) -> tuple[Callable[[str], Any] | None, str, str]:
    """Kind, help text and alias of a parameter."""
    return tuple(FIELDS[key].metadata[name] for name in ("kind", "help", "alias"))
