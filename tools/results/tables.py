"""A summary → its tables, as people read them: on the terminal, as Markdown and as LaTeX. Figures are percent."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tabulate import tabulate

from tools.results.bootstrap import LEVEL
from tools.results.metrics import COLUMNS, OFFICIAL
from tools.results.published import DEVIATIONS, Comparison
from tools.results.summary import Summary

NONE = "–"  # in place of a value that is not there
INTERVAL = f"{100 * LEVEL:.0f} % interval"


@dataclass(frozen=True)
class Table:
    """A table of texts, with a title above it and notes below it."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int  # how many columns at the left are names; the others are figures
    notes: Sequence[str] = ()

    def text(self) -> str:
        """For the terminal."""
        return "\n".join([f"{self.title}\n", *self._as("simple"), *self.notes]) + "\n"

    def markdown(self) -> str:
        """For a Markdown file."""
        return "\n".join([f"{self.title}.\n", *self._as("github"), *(f"\n{note}" for note in self.notes)]) + "\n"

    def _as(self, form: str) -> list[str]:
        if not self.rows:
            return []
        alignment = ["left"] * self.names + ["right"] * (len(self.headers) - self.names)
        rows = self.rows
        if form == "github":
            rows = [[cell.replace("|", r"\|") for cell in row] for row in rows]  # a tag may hold it
        return [tabulate(rows, self.headers, tablefmt=form, disable_numparse=True, colalign=alignment)]


def percent(value: float, deviation: float = float("nan"), sign: str = "") -> str:
    """A fraction in percent, with its standard deviation where there is one: `71.05 ± 0.50`."""
    if np.isnan(value):
        return NONE
    return f"{round(100 * value, 2) + 0.0:{sign}.2f}" + ("" if np.isnan(deviation) else f" ± {100 * deviation:.2f}")


def main_table(summary: Summary) -> Table:
    """The metrics and the official score of each system."""
    seeds = sorted({run.config.seed for run in summary.runs})
    title = f"{summary.title}: percent, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}; "
    title += f"the challenge's {OFFICIAL} stands in the column {summary.official_column}"
    title += "; mean ± standard deviation over seeds" if len(seeds) > 1 else ""
    rows = [
        [system, row, *(percent(*columns[column]) for column in summary.columns)]
        for (system, row), columns in summary.statistics.items()
    ]
    notes = [f"warning: {line}" for line in summary.missing]
    of_systems = {system: [run.config.seed for run in runs] for system, runs in summary.systems.items()}
    if any(each != seeds for each in of_systems.values()):
        notes.append("Seeds: " + "; ".join(f"{s} {', '.join(map(str, each))}" for s, each in of_systems.items()) + ".")
    return Table(title, ["system", "metric", *summary.columns], _without_repeats(rows), 2, notes)


def official_table(summary: Summary) -> Table | None:
    """The official scores with their intervals, and the differences between systems; None where none is known."""
    figure = OFFICIAL, summary.official_column
    known = {s: intervals[figure] for s, intervals in summary.intervals.items() if figure in intervals}
    rows = [[s, percent(summary.value(s, figure)), _interval(interval), "", ""] for s, interval in known.items()]
    notes = ["Resampled are clips, the same ones for all systems, and not seeds: those of a system are averaged."]
    for first, second in itertools.combinations(known, 2):
        difference = summary.differences[first, second].get(figure)
        if difference is None:
            notes.append(f"{second} and {first} were tested on different clips: their difference is not known.")
            continue
        shown = percent(difference.value, sign="+"), _interval(difference.interval, "+"), f"{difference.p:.3f}"
        rows.append([f"{second} − {first}", *shown, "yes" if difference.is_more_than_chance else "no"])
    title = f"{OFFICIAL.capitalize()} with the {INTERVAL} of a bootstrap over clips, percent; differences are paired"
    headers = ["system", OFFICIAL, INTERVAL, "p", "larger than chance"]
    return Table(title, headers, rows, 1, notes) if rows else None


def interval_table(summary: Summary) -> Table | None:
    """The intervals of all figures; None where none is known."""
    rows = []
    for system, row in summary.statistics:
        known = summary.intervals.get(system, {})
        cells = [_interval(known[row, column]) if (row, column) in known else NONE for column in summary.columns]
        rows += [[system, row, *cells]] if known else []
    title = f"{INTERVAL}s of a bootstrap over clips, percent"
    return Table(title, ["system", "metric", *summary.columns], _without_repeats(rows), 2) if rows else None


def published_table(summary: Summary) -> Table:
    """Ours beside the published figures, and where these are from; no rows where nothing was published."""
    rows = []
    for system, row in summary.statistics:
        found = summary.comparisons.get(system, {})
        cells = [found.get((row, column)) for column in summary.columns]
        if any(cells):
            published = [percent(c.published.mean, c.published.deviation) if c else NONE for c in cells]
            rows += [[system, row, "published", *published], [system, row, "difference", *map(_difference, cells)]]
    title = "Compared with published figures"
    title += f", percent; *: outside ± {DEVIATIONS} std, the published ones, or else of our seeds" if rows else ""
    notes = [_published_note(summary, system) for system in summary.systems]
    return Table(title, ["system", "metric", "", *summary.columns], _without_repeats(rows, 2), 3, notes)


def _difference(comparison: Comparison | None) -> str:
    if comparison is None:
        return NONE
    return percent(comparison.difference, sign="+") + ("*" if comparison.is_outside else "")


def _published_note(summary: Summary, system: str) -> str:
    published = summary.published.get(summary.systems[system][0].config.score)
    if published is None:
        return f"{system}: no published figures of this score on these data are known here."
    judged = [
        comparison.is_outside
        for (row, column), comparison in summary.comparisons[system].items()
        if row != OFFICIAL and column not in COLUMNS and comparison.is_outside is not None
    ]
    trials = f"mean of {published.trials} trainings" if published.trials > 1 else "one training"
    note = f"{system}: published, {trials}: {published.source}. "
    if not judged:
        return note + "Of one training and one of ours it cannot be said which figures lie outside: run with SEEDS."
    basis = "" if published.trials > 1 else f" (± {DEVIATIONS} std of our seeds)"
    return note + f"{sum(judged)} of {len(judged)} published figures lie outside{basis}."


def _interval(interval: tuple[float, float], sign: str = "") -> str:
    low, high = interval
    return f"[{percent(low, sign=sign)}, {percent(high, sign=sign)}]"


def _without_repeats(rows: list[list[str]], names: int = 1) -> list[list[str]]:
    """Each of the names at the left, such as the system's, in its first row only."""
    shown, before = [], []
    for row in rows:
        same = [row[: k + 1] == before[: k + 1] for k in range(names)]
        shown.append(["" if is_same else cell for cell, is_same in zip(row, same, strict=False)] + row[names:])
        before = row
    return shown


def latex(summary: Summary) -> str:
    """The table of a paper, for the package booktabs: a row a machine type, the metrics of each system side by side."""
    import pandas

    cells = {key: {c: percent(*value) for c, value in columns.items()} for key, columns in summary.statistics.items()}
    order = sorted(summary.columns, key=lambda column: column in COLUMNS)  # means last
    style = pandas.DataFrame(cells).reindex(order).style.format(escape="latex")
    for axis in (0, 1):
        style = style.format_index(escape="latex", axis=axis)
    code = style.to_latex(hrules=True, multicol_align="c", column_format="l" + "r" * len(cells))
    lines = code.replace("±", "$\\pm$").replace(NONE, "--").splitlines()
    rules, end = [], 1
    for width in (sum(system == other for other, _ in cells) for system in summary.systems):
        rules.append(f"\\cmidrule(lr){{{end + 1}-{end + width}}}")
        end += width
    first_mean = next(place for place, line in enumerate(lines) if line.startswith(f"{next(iter(COLUMNS))} &"))
    lines[first_mean:first_mean] = ["\\midrule"]
    lines[3:3] = rules  # below the names of the systems
    heading = [
        f"% {main_table(summary).title}",
        "% \\usepackage{booktabs}",
        "% Where it is too wide: \\usepackage{graphicx}, \\resizebox{\\linewidth}{!}{\\input{summary}}",
    ]
    return "\n".join([*heading, *lines]) + "\n"
