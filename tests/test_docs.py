"""What the README and the docs refer to exists."""

import re
import runpy

import pytest
import yaml

from config import FIELDS, ROOT, VERSION

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
SOURCES = "".join(path.read_text(encoding="utf-8") for path in [*ROOT.glob("t*/**/*.py"), *ROOT.glob("tools/*.sh")])
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def test_names():
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    return set(re.findall(r"def (test_\w+)", text)) | {path.stem for path in (ROOT / "tests").glob("test_*.py")}


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page):
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    for path, _, anchor in (target.partition("#") for target in targets if not target.startswith("http")):
        linked = page.parent / path if path else page
        assert linked.exists(), path
        assert not anchor or anchor in anchors(linked), f"{path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_tests_that_are_named(page, test_names):
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    assert set(re.findall(r"`(test_\w+)`", text)) <= test_names
    files = re.findall(r"`((?:docs|datasets|networks|tests|tools)/[\w/]+\.(?:py|sh|md|yaml|html))`", text)
    examples = {"networks/interpolation.py", "datasets/catalog/workshop.yaml"}
    assert [name for name in files if not (ROOT / name).exists() and name not in examples] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options(page):
    blocks = CODE.findall(page.read_text(encoding="utf-8"))
    commands = re.findall(
        r"(?:\./|python3? |^|\s)((?:tools/)?\w+\.(?:sh|py)) (.*)", "\n".join(blocks).replace("\\\n", " ")
    )
    for script, arguments in commands:
        assert (ROOT / script).exists(), script
        options = re.findall(r"--([a-z_]+)", arguments.split(" #")[0])
        assert [option for option in options if option not in FIELDS and f'"--{option}' not in SOURCES] == []


def test_version_is_the_same_everywhere():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == VERSION
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == VERSION


def test_workflow_runs_all_supported_pythons():
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    pythons = workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert pythons == ["3.10", "3.11", "3.12", "3.13"]
    assert {"run": ".ci/run"} in workflow["jobs"]["tests"]["steps"]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"].split()[0] for hook in hooks] == 2 * [".venv/bin/ruff"]


def test_diagram(tmp_path):
    script = runpy.run_path(str(ROOT / "docs/images/draw_method.py"))
    for theme, colors in script["THEMES"].items():
        script["draw"](tmp_path / "method.svg", *colors)
        assert "<svg" in (tmp_path / "method.svg").read_text()
        assert (ROOT / f"docs/images/method-{theme}.svg").exists()
