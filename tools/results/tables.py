"""The tables of a summary, in percent: as plain text, Markdown and LaTeX."""

import itertools
import math
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from tools.results.bootstrap import CONFIDENCE, MIN_CLIPS, SIGNIFICANCE
from tools.results.official import COLUMNS, OFFICIAL, summary_metrics
from tools.results.published import MAX_DEVIATIONS, MIN_TRAININGS
from tools.results.summary import Summary

MISSING = "–"  # shown if there is no value
INTERVAL = f"{100 * CONFIDENCE:.0f} % interval"


@dataclass(frozen=True)
class Table:
    """A table of strings, with a title above it and notes below it."""

    title: str
    cells: pd.DataFrame
    n_labels: int  # how many columns, from the left, label the rows
    notes: Sequence[str] = ()

    def text(self, width: float = math.inf) -> str:
        """Plain text. Long lines are wrapped, and a wide table is split into blocks of columns, as pandas does."""

        def wrap(line: str) -> str:
            return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)

        table = "\n\n".join(self._blocks(width)).splitlines()
        return "\n".join([f"{wrap(self.title)}\n", *table, *map(wrap, self.notes)]).rstrip() + "\n"

    def markdown(self) -> str:
        """For a Markdown file."""
        cells = self.cells.map(lambda cell: cell.replace("|", r"\|"))  # a tag may contain it
        table = [] if cells.empty else [self._grid(cells, "github")]
        return "\n".join([f"{self.title}.\n", *table, *(f"\n{note}" for note in self.notes)]) + "\n"

    def _blocks(self, width: float) -> Iterator[str]:
        """The table in parts that fit the width. Each has the labels and at least one more column."""
        if self.cells.empty:
            return
        labels = list(range(self.n_labels))
        columns, block = labels, ""
        for column in range(self.n_labels, len(self.cells.columns)):
            wider = self._grid(self.cells.iloc[:, [*columns, column]], "simple")
            if block and len(wider.splitlines()[1]) > width:
                yield block
                columns = labels
                wider = self._grid(self.cells.iloc[:, [*columns, column]], "simple")
            columns, block = [*columns, column], wider
        yield block

    def _grid(self, cells: pd.DataFrame, form: str) -> str:
        alignment = ["left"] * self.n_labels + ["right"] * (len(cells.columns) - self.n_labels)
        return cells.to_markdown(tablefmt=form, index=False, disable_numparse=True, colalign=alignment)


def terminal_width() -> float:
    """The number of columns of the terminal; infinite if it is unknown or the output is not a terminal."""
    return (sys.stdout.isatty() and shutil.get_terminal_size().columns) or math.inf


def percent(value: float, deviation: float = math.nan, sign: str = "") -> str:
    """A fraction in percent, with its standard deviation if it is known: `71.05 ± 0.50`."""
    if math.isnan(value):
        return MISSING
    rounded = round(100 * float(value), 2) + 0.0  # no -0.00
    return f"{rounded:{sign}.2f}" + ("" if math.isnan(deviation) else f" ± {100 * deviation:.2f}")


def all_tables(summary: Summary) -> dict[str, Table]:
    """Name → table. Tables of scores and intervals are missing if they would be empty."""
    tables = {
        "metrics": main_table(summary),
        "official scores": _official_table(summary),
        "intervals": _interval_table(summary),
        "published": _published_table(summary),
    }
    return {name: table for name, table in tables.items() if table}


def main_table(summary: Summary) -> Table:
    """The metrics and the official score of each system."""
    seeds = sorted({run.config.seed for run in summary.runs})
    plural, deviation = ("s", ", mean ± standard deviation over seeds") if len(seeds) > 1 else ("", "")
    title = f"{summary.title}, seed{plural} {', '.join(map(str, seeds))}, in percent{deviation}"
    column = summary.official_column
    notes = [f"The challenge's {OFFICIAL} is in column {column} ({COLUMNS[column]} mean)."]
    notes += [f"warning: {line}" for line in summary.warnings]
    if any(len(runs) < len(seeds) for runs in summary.systems.values()):
        lists = (f"{system} {', '.join(str(r.config.seed) for r in runs)}" for system, runs in summary.systems.items())
        notes.append(f"Seeds: {'; '.join(lists)}.")
    return _table(title, summary.wide(statistic_cells(summary)), notes)


def statistic_cells(summary: Summary) -> pd.Series:
    """(system, metric, column) → mean ± standard deviation."""
    return _texts(summary.statistics, lambda row: percent(row["mean"], row["std"]))


def _official_table(summary: Summary) -> Table | None:
    """The official scores with their intervals and the differences between systems, or None without scores."""
    means, intervals, differences = (
        _rows(table, metric=OFFICIAL, column=summary.official_column)
        for table in (summary.statistics, summary.intervals, summary.differences)
    )
    rows = [
        [system, percent(mean), _interval(intervals.loc[system]) if system in intervals.index else MISSING, "", ""]
        for system, mean in means["mean"].dropna().items()
    ]
    notes = ["Clips are resampled, seeds are averaged. All systems use the same resamples."]
    if len(intervals) < len(rows):
        few = f"a machine type has fewer than {MIN_CLIPS} normal or {MIN_CLIPS} anomalous test clips"
        notes.append(f"{MISSING}: no interval, because {few}, or its scores cannot be used (see the warnings).")
    for first, second in itertools.combinations(intervals.index, 2):
        if (second, first) not in differences.index:
            notes.append(f"{second} − {first}: no difference, because the two were tested on different clips.")
            continue
        row = differences.loc[second, first]
        cells = percent(row["difference"], sign="+"), _interval(row, "+"), f"{row['p']:.3f}"
        rows.append([f"{second} − {first}", *cells, "yes" if row["p"] < SIGNIFICANCE else "no"])
    title = f"{OFFICIAL.capitalize()} with the {INTERVAL} of a bootstrap over clips, in percent"
    headers = ["system", OFFICIAL, INTERVAL, "p", f"p < {SIGNIFICANCE:g}"]
    return Table(title, pd.DataFrame(rows, columns=headers), 1, notes) if rows else None


def _interval_table(summary: Summary) -> Table | None:
    """The intervals of all values; None if none is known."""
    if summary.intervals.empty:
        return None
    systems = summary.intervals.index.unique("system")
    table = summary.wide(_texts(summary.intervals, _interval).reindex(summary.statistics.index)).loc[systems]
    return _table(f"{INTERVAL}s of a bootstrap over clips, in percent", table)


def _published_table(summary: Summary) -> Table:
    """Our values compared with published ones, and their sources."""
    if summary.comparisons.empty:
        return Table("No published values of these scores on these data", pd.DataFrame(), 0)
    kinds = {
        "published": _texts(summary.comparisons, lambda row: percent(row["published"], row["published std"])),
        "difference": _texts(summary.comparisons, _difference),
    }
    texts = pd.DataFrame(kinds).reindex(summary.statistics.index).rename_axis(columns="")
    table = summary.wide(texts.stack()).dropna(how="all")
    title = f"Compared with published values, in percent; *: differs by more than {MAX_DEVIATIONS} standard deviations"
    notes = [_published_note(system, _rows(summary.comparisons, system=system)) for system in summary.systems]
    return _table(title, table, notes)


def _difference(row: pd.Series) -> str:
    is_outside = not pd.isna(row["outside"]) and row["outside"]
    return percent(row["difference"], sign="+") + ("*" if is_outside else "")


def _published_note(system: str, comparisons: pd.DataFrame) -> str:
    """The source of the values published for a system's score, and how many of ours differ from them."""
    if comparisons.empty:
        return f"{system}: no published values of this score on these data."
    trials, by, source = comparisons[["trials", "by", "source"]].iloc[0]
    counted = [metric != OFFICIAL and column not in COLUMNS for metric, column in comparisons.index]
    judged = comparisons["outside"][counted].dropna()
    trainings = f"mean of {trials} trainings" if trials > 1 else "one training"
    published = {"organisers": "published by the organisers", "others": "measured by others, not by the organisers"}[by]
    note = f"{system}: {published}, {trainings}: {source}. "
    if judged.empty:
        few = f"fewer than {MIN_TRAININGS} trainings, published or ours"
        return note + f"No standard deviation ({few}). Train with more SEEDS."
    limit = f"{MAX_DEVIATIONS} {'published' if trials >= MIN_TRAININGS else 'of our'} standard deviations"
    return note + f"{judged.sum()} of {len(judged)} values differ by more than {limit}."


def _interval(row: pd.Series, sign: str = "") -> str:
    return f"[{percent(row['low'], sign=sign)}, {percent(row['high'], sign=sign)}]"


def _rows(table: pd.DataFrame, **levels: str) -> pd.DataFrame:
    """The rows with these names in the index, without these levels."""
    for level, name in levels.items():
        table = table[table.index.get_level_values(level) == name].droplevel(level)
    return table


def _texts(table: pd.DataFrame, text: Callable[[pd.Series], str]) -> pd.Series:
    return pd.Series([text(row) for _, row in table.iterrows()], table.index, dtype=str)


def _table(title: str, texts: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """A table with the index as labels. Repeated labels are left empty, except in the last label column."""
    cells, labels = texts.fillna(MISSING).reset_index(), list(texts.index.names)
    repeated = {label: cells.duplicated(labels[: k + 1]) for k, label in enumerate(labels[:-1])}
    cells = cells.assign(**{label: cells[label].mask(rows, "") for label, rows in repeated.items()})
    return Table(title, cells, len(labels), notes)


def latex(summary: Summary) -> str:
    """A table for a paper, with the LaTeX package booktabs: one row per machine type, the systems side by side."""
    order = sorted(summary.columns, key=lambda column: column in COLUMNS)  # means last
    cells = summary.wide(statistic_cells(summary)).T.reindex(order).rename_axis(index=None, columns=[None, None])
    style = cells.style.format(escape="latex")
    for axis in (0, 1):
        style = style.format_index(escape="latex", axis=axis)
    code = style.to_latex(hrules=True, multicol_align="c", column_format="l" + "r" * len(cells.columns))
    lines = code.replace("±", "$\\pm$").replace(MISSING, "--").splitlines()
    width = len(summary_metrics(summary.dataset))
    starts = range(2, 2 + len(cells.columns), width)
    first_mean = next(place for place, line in enumerate(lines) if line.startswith(f"{next(iter(COLUMNS))} &"))
    lines.insert(first_mean, "\\midrule")
    lines[3:3] = [f"\\cmidrule(lr){{{start}-{start + width - 1}}}" for start in starts]  # below the systems' names
    table = main_table(summary)
    heading = [
        f"% {table.title}. {table.notes[0]}",
        "% \\usepackage{booktabs}",
        "% If it is too wide: \\usepackage{graphicx}, \\resizebox{\\linewidth}{!}{\\input{summary}}",
    ]
    return "\n".join([*heading, *lines]) + "\n"
