"""Fingerprints of code and files, to check whether results match the current code and files.

The fingerprint of code is a hash of its syntax tree. It ignores comments, docstrings, annotations and layout.
"""

import ast
import hashlib
import inspect
import re
import subprocess
import textwrap
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from config import ROOT, BaselineError

LENGTH = 16  # hexadecimal digits
CHUNK = 1 << 20  # bytes read at a time
# Tables of networks and scores. They are ignored, so that a new entry does not affect the others.
REGISTRIES = ("NETWORKS", "SCORES")
# The parts of config.py that read parameters. They are ignored, because the values are compared instead.
PARAMETERS = ("BaselineError", "Config", "FEATURE_KEYS", "FeatureConfig", "UsageError", "load_config", "nearest")
NOT_FOLLOWED = ("files", "fingerprints")  # modules to ignore
WHOLE = "*"  # used as a name: everything in a module

Code = dict[str, str]  # such as "networks/autoencoder.py: AutoEncoder" → fingerprint


def fingerprint_of(contents: bytes) -> str:
    """The fingerprint of a byte string."""
    return hashlib.sha256(contents).hexdigest()[:LENGTH]


def fingerprint_of_file(path: Path) -> str:
    """The fingerprint of a file's contents."""
    return sha256_of(path)[:LENGTH]


def sha256_of(path: Path) -> str:
    """The SHA-256 checksum of a file, as printed by sha256sum."""
    checksum = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            checksum.update(chunk)
    return checksum.hexdigest()


def fingerprint_of_function(function: Callable) -> str:
    """The fingerprint of a function without its name, or an empty string if its source is not available."""
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
        definition = _Bare().visit(definition)
        return _fingerprint([definition.args, *definition.decorator_list, *definition.body])
    except (OSError, TypeError, ValueError, SyntaxError, AttributeError):
        return ""


def code_behind(*roots: Any, without: Collection[str] = ()) -> Code:
    """All functions, classes and variables of this project that some functions or classes use, directly or indirectly.

    Names are followed through definitions and imports, except for PARAMETERS and REGISTRIES. Entries of REGISTRIES that
    matter are passed as `roots`. Names in strings, such as those used with getattr, are not found.

    Args:
        roots: functions or classes.
        without: modules and packages that do not affect the results.

    Raises:
        BaselineError: the code was edited after this process first read it, so it is not the code that runs.
    """
    code = _follow(roots, without, _first_contents)
    partials = [root for root in roots if isinstance(root, partial)]
    if any(_contents(ROOT / file) != _first_contents(ROOT / file) for file in {name.split(": ")[0] for name in code}):
        now = _follow(roots, without, _contents)
        edited = sorted({name.split(": ")[0] for name, _ in code.items() ^ now.items()})
        if edited:
            raise BaselineError(
                f"{', '.join(edited)}: edited since this run began. Start it again; in a notebook, restart Python."
            )
    for root in partials:
        arguments = re.sub(" at 0x[0-9a-f]+", "", repr((root.args, root.keywords)))
        code[f"functools.partial: {getattr(root.func, '__name__', root.func)}"] = fingerprint_of(arguments.encode())
    return code


def _follow(roots: Sequence[Any], without: Collection[str], contents_of: Callable[[Path], bytes]) -> Code:
    code: Code = {}
    waiting, seen = [place for root in roots for place in _places_of(root)], set()
    while waiting:
        place = waiting.pop()
        if place in seen or place[1] in (*REGISTRIES, *PARAMETERS) or _is_below(place[0], (*NOT_FOLLOWED, *without)):
            continue
        seen.add(place)
        path, name = place
        module = _parse(path, contents_of(path))
        if name.startswith("<"):  # a lambda, for example in a registry
            code[f"{path.relative_to(ROOT)}: {name}"] = _fingerprint(module.statements)
        if name == WHOLE or name.startswith("<"):
            waiting += [(path, defined) for defined in module.definitions]
        elif name in module.definitions:
            statements = module.definitions[name]
            imports = [node for used in _names_in(statements) for node in module.imports.get(used, ())]
            code[f"{path.relative_to(ROOT)}: {name}"] = _fingerprint([*statements, *imports])
            for statement in (*statements, *imports, *module.unnamed):
                waiting += module.used_by(statement)
            if module.unnamed:
                code[f"{path.relative_to(ROOT)}"] = _fingerprint(module.unnamed)
        elif name in module.imports:  # imported from this module, but defined elsewhere
            for statement in module.imports[name]:
                waiting += module.used_by(statement)
        else:  # defined in another way
            waiting.append((path, WHOLE))
    return dict(sorted(code.items()))


def git_revision() -> str | None:
    """The git revision of the project, with `-dirty` if files have changed since then, or None if unknown."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


class _Bare(ast.NodeTransformer):
    """Takes docstrings and annotations out of a syntax tree."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for field in ("annotation", "returns", "type_comment"):
            if getattr(node, field, None) is not None:
                setattr(node, field, None)
        body = getattr(node, "body", None)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module) and body:
            first = body[0]
            if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
                del body[0]
        return node


class _Module:
    """A file of the project: the statements that define each name."""

    def __init__(self, path: Path, contents: bytes):
        self.path = path
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.imports: dict[str, list[ast.stmt]] = {}
        self.unnamed: list[ast.stmt] = []  # such as torch.set_default_dtype(...), from x import *
        try:
            tree = ast.parse(contents)
        except SyntaxError as error:
            raise BaselineError(f"{path}, line {error.lineno}: {error.msg}. Fix this line.") from error
        self.statements = _Bare().visit(tree).body
        for statement in self.statements:
            if isinstance(statement, ast.Import | ast.ImportFrom) and statement.names[0].name != "*":
                for alias in statement.names:
                    self.imports.setdefault((alias.asname or alias.name).split(".")[0], []).append(statement)
            elif isinstance(statement, ast.If) and {"__name__", "TYPE_CHECKING"} & {*_names_in([statement.test])}:
                continue  # used only to run the file, or for annotations
            elif names := _bound_by(statement):
                for name in names:
                    self.definitions.setdefault(name, []).append(statement)
            else:
                self.unnamed.append(statement)

    def used_by(self, statement: ast.stmt) -> Iterator[tuple[Path, str]]:
        """The files and names that the names and imports in a statement refer to."""
        for name in _names_in([statement]):
            if name in self.definitions:
                yield self.path, name
            for imported in self.imports.get(name, ()):
                yield from self.used_by(imported)
        for node in ast.walk(statement):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield from ((path, WHOLE) for path in _files_of(alias.name))
            elif isinstance(node, ast.ImportFrom):
                folder = self.path.parents[node.level - 1].relative_to(ROOT).parts if node.level else ()
                package = ".".join([*folder, *filter(None, [node.module])])
                for alias in node.names:
                    submodule = _files_of(f"{package}.{alias.name}")
                    yield from ((path, WHOLE) for path in submodule)
                    yield from ((path, alias.name) for path in _files_of(package) if not submodule)


def _contents(path: Path) -> bytes:
    return path.read_bytes()


_first_contents = cache(_contents)


@cache
def _parse(path: Path, contents: bytes) -> _Module:
    return _Module(path, contents)


def _places_of(root: Any) -> Iterator[tuple[Path, str]]:
    """The file and name of a function or class of the project."""
    while isinstance(root, partial):
        root = root.func
    root = inspect.unwrap(root) if hasattr(root, "__qualname__") else type(root)
    path = Path(inspect.getsourcefile(root) or "").resolve()
    if path.is_file() and path.is_relative_to(ROOT) and "site-packages" not in path.parts:
        yield path, root.__qualname__.split(".")[0]


def _files_of(module: str) -> list[Path]:
    """The file of a module of the project, or an empty list for other modules."""
    place = ROOT.joinpath(*module.split("."))
    return [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()][:1]


def _is_below(path: Path, modules: Sequence[str]) -> bool:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def _names_in(statements: Sequence[ast.AST]) -> list[str]:
    nodes = (node for statement in statements for node in ast.walk(statement))
    return sorted({node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)})


def _bound_by(statement: ast.stmt) -> set[str]:
    """The names that a statement defines."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    names = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    inner = (node for node in ast.walk(statement) if isinstance(node, ast.FunctionDef | ast.ClassDef))
    return names | {node.name for node in inner}


def _fingerprint(nodes: Sequence[ast.AST]) -> str:
    return fingerprint_of(_text(list(nodes)).encode())


def _text(node: Any) -> str:
    """A syntax tree as text. Unlike ast.dump and ast.unparse, it is the same in all versions of Python."""
    if isinstance(node, list):
        return f"[{','.join(map(_text, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = (f"{name}={_text(value)}" for name, value in ast.iter_fields(node) if value not in (None, []))
    return f"{type(node).__name__}({','.join(fields)})"
