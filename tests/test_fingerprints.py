"""Which edits of the code count, and where they are found."""

import importlib.util
import itertools
import sys

import pytest

import fingerprints
from config import BaselineError
from fingerprints import code_behind

FILES = {
    "method.py": '''
"""The method."""
import math
from parts import helper as part
import parts.shapes
import parts.more
from parts.star import *

LIMIT, OTHER = 3, 4
SCORES = {"a": part}

def run(x: int) -> int:
    """Runs."""
    # a comment
    from parts.late import scale
    return part(x) + LIMIT + scale(SCORES) + star(x) + parts.more.MORE + parts.shapes.Shape(x).n

def unused(x):
    return x
''',
    "parts/__init__.py": "def helper(x):\n    return x\n\ndef not_used(x):\n    return x\n",
    "parts/shapes.py": "class Base:\n    pass\n\nclass Shape(Base):\n    def __init__(self, n):\n        self.n = n\n",
    "parts/late.py": "from parts.deep import FACTOR\nimport json\nprint\n\ndef scale(x):\n    return FACTOR\n",
    "parts/deep.py": "FACTOR = 2\n",
    "parts/more.py": "MORE = 1\n",
    "parts/star.py": "def star(x):\n    return x\n",
    "outside.py": "def helper(x):\n    return 2 * x\n",
}


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A function: the code behind `run`, with a text of a file replaced by another, as a new process finds it."""
    for name, contents in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(contents)
    monkeypatch.setattr(fingerprints, "ROOT", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    specification = importlib.util.spec_from_file_location("method", tmp_path / "method.py")
    method = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(method)
    yield lambda file, old, new, fresh=True: _code(tmp_path, method.run, file, old, new, fresh)
    for name in [name for name in sys.modules if name.split(".")[0] in ("parts", "method")]:
        del sys.modules[name]


def _code(root, function, file, old, new, fresh):
    path = root / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    if fresh:
        fingerprints._first_contents.cache_clear()
    return code_behind(function, without=["outside"])


def test_what_a_function_uses_is_found(code):
    assert list(code("method.py", "", "")) == [
        *("method.py", "method.py: LIMIT", "method.py: run", "parts/__init__.py: helper", "parts/deep.py: FACTOR"),
        *("parts/late.py", "parts/late.py: scale", "parts/more.py: MORE", "parts/shapes.py: Base"),
        *("parts/shapes.py: Shape", "parts/star.py: star"),
    ]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("method.py", "# a comment", "# another"),
        ("method.py", '"""Runs."""', '"""Runs fast."""'),
        ("method.py", "x: int) -> int", "x)"),
        ("method.py", "part(x) + LIMIT", "(part( x )\n            + LIMIT)"),
        ("method.py", "import math\n", "\n\n"),  # nobody uses it
        ("method.py", "def unused(x):\n    return x", "def unused(x):\n    return -x"),
        ("method.py", '"a": part', '"b": part'),  # a registry
        ("parts/__init__.py", "def not_used(x):\n    return x", ""),
    ],
)
def test_edits_that_change_nothing(code, file, old, new):
    assert code(file, old, new) == code("outside.py", "", "") == code("outside.py", "2", "3")


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("method.py", "+ LIMIT", "- LIMIT", "method.py: run"),
        ("method.py", "OTHER = 3", "OTHER = 5", "method.py: LIMIT"),
        ("method.py", "from parts import", "from outside import", "method.py: run"),
        ("parts/__init__.py", "return x", "return -x", "parts/__init__.py: helper"),
        ("parts/shapes.py", "pass", "size = 0", "parts/shapes.py: Base"),
        ("parts/shapes.py", "= n", "= n + 1", "parts/shapes.py: Shape"),
        ("parts/deep.py", "= 2", "= 2.5", "parts/deep.py: FACTOR"),
        ("parts/more.py", "= 1", "= 2", "parts/more.py: MORE"),
        ("parts/star.py", "return x", "return -x", "parts/star.py: star"),
        ("parts/late.py", "\nprint\n", "\njson.loads\n", "parts/late.py"),
    ],
)
def test_edits_that_change_the_code(code, file, old, new, changed):
    before = code("outside.py", "", "")
    after = code(file, old, new)
    assert changed in {name for name, _ in before.items() ^ after.items()}


def test_a_score_without_a_name_is_its_whole_module(code, tmp_path):
    """A lambda or a partial in a registry, which is not followed."""
    scores = tmp_path / "scores.py"
    scores.write_text("from functools import partial\ndef top(k, x):\n    return x\nSCORES = {'a': lambda x: x}\n")
    found = []
    for old, new in (
        ("", ""),
        ("lambda x: x", "lambda x: -x"),
        ("lambda x: -x", "partial(top, 1)"),
        ("top, 1", "top, 2"),
    ):
        scores.write_text(scores.read_text().replace(old, new))
        specification = importlib.util.spec_from_file_location("scores", scores)
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        fingerprints._first_contents.cache_clear()
        found.append(code_behind(module.SCORES["a"]))
    assert all(first != second for first, second in itertools.pairwise(found))
    assert list(found[-1]) == ["scores.py: top", "functools.partial: top"]


def test_an_edit_while_a_run_uses_the_code_is_an_error(code):
    before = code("method.py", "", "")
    assert code("parts/deep.py", "= 2", "= 2  # the same", fresh=False) == before
    with pytest.raises(BaselineError, match=r"parts/deep.py: edited since this run began. Start it again"):
        code("parts/deep.py", "= 2", "= 3", fresh=False)
    with pytest.raises(BaselineError, match=r"deep.py, line 1: .* Fix this line"):
        code("parts/deep.py", "= 3", "=", fresh=False)
