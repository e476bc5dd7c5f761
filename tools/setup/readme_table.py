"""Compare the table of the quick start with that in README.md: readme_table.py SUMMARY, a summary.md of 03."""

import sys
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"
SHOWN = 5  # differences


def first_table(markdown: str) -> dict[tuple[str, str, str], str]:
    """The cells of the first table of a Markdown text with a column `metric`: (system, metric, column) → text."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    start = next(number for number, row in enumerate(rows) if "metric" in row)
    (_, _, *columns), _, *rows = rows[start:]
    cells, system = {}, ""
    for name, metric, *values in rows:
        if len(values) != len(columns):  # the next table
            break
        system = name or system  # empty below the first metric of a system
        cells |= {(system, metric, column): value for column, value in zip(columns, values, strict=True)}
    return cells


def compare(readme: str, summary: str) -> str:
    """Compare the tables in two texts. Returns the result in words."""
    expected, found = first_table(readme), first_table(summary)
    wrong = [cell for cell in {**expected, **found} if found.get(cell) != expected.get(cell)]
    if not wrong:
        return f"All {len(found)} values are equal to the README's table."
    shown = [f"  {' '.join(cell)}: {found.get(cell)}, in the README {expected.get(cell)}" for cell in wrong[:SHOWN]]
    return "\n".join(
        [
            f"{len(wrong)} of {len(expected)} values differ from the README's table:",
            *shown,
            "docs/fidelity.md explains on which processors they are equal, and what to do.",
        ]
    )


if __name__ == "__main__":
    texts = (path.read_text(encoding="utf-8") for path in (README, Path(sys.argv[1])))
    sys.stdout.write(f"{compare(*texts)}\n")
