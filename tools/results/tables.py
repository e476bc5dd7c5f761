"""A summary → its tables, as people read them: on the terminal, as Markdown and as LaTeX. Values are percent."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from tools.results.bootstrap import CHANCE, FEWEST_CLIPS, LEVEL
from tools.results.official import COLUMNS, OFFICIAL, summary_metrics
from tools.results.published import DEVIATIONS, FEWEST_TRAININGS
from tools.results.summary import Summary

MISSING = "–"  # in place of a value
INTERVAL = f"{100 * LEVEL:.0f} % interval"


@dataclass(frozen=True)
class Table:
    """A table of texts, with a title above it and notes below it."""

    title: str
    cells: pd.DataFrame
    names: int  # how many columns at the left are names; the others are values
    notes: Sequence[str] = ()

    def text(self) -> str:
        """For the terminal."""
        return "\n".join([f"{self.title}\n", *self._grid("simple"), *self.notes]) + "\n"

    def markdown(self) -> str:
        """For a Markdown file."""
        return "\n".join([f"{self.title}.\n", *self._grid("github"), *(f"\n{note}" for note in self.notes)]) + "\n"

    def _grid(self, form: str) -> list[str]:
        if self.cells.empty:
            return []
        cells = self.cells
        if form == "github":
            cells = cells.map(lambda cell: cell.replace("|", r"\|"))  # a tag may hold it
        alignment = ["left"] * self.names + ["right"] * (len(cells.columns) - self.names)
        return [cells.to_markdown(tablefmt=form, index=False, disable_numparse=True, colalign=alignment)]


def percent(value: float, deviation: float = math.nan, sign: str = "") -> str:
    """A fraction in percent, with its standard deviation if it is known: `71.05 ± 0.50`."""
    if math.isnan(value):
        return MISSING
    rounded = round(100 * float(value), 2) + 0.0  # no -0.00
    return f"{rounded:{sign}.2f}" + ("" if math.isnan(deviation) else f" ± {100 * deviation:.2f}")


def all_tables(summary: Summary) -> dict[str, Table]:
    """The tables that can be filled."""
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
    plural, deviation = ("s", "; mean ± standard deviation over seeds") if len(seeds) > 1 else ("", "")
    title = (
        f"{summary.title}: percent, seed{plural} {', '.join(map(str, seeds))}; "
        f"the challenge's {OFFICIAL} stands in the column {summary.official_column}{deviation}"
    )
    notes = [f"warning: {line}" for line in summary.warnings]
    if any(len(runs) < len(seeds) for runs in summary.systems.values()):
        lists = (f"{system} {', '.join(str(r.config.seed) for r in runs)}" for system, runs in summary.systems.items())
        notes.append(f"Seeds: {'; '.join(lists)}.")
    return _table(title, summary.wide(statistic_cells(summary)), notes)


def statistic_cells(summary: Summary) -> pd.Series:
    """(system, metric, column) → mean ± standard deviation."""
    return _texts(summary.statistics, lambda row: percent(row["mean"], row["std"]))


def _official_table(summary: Summary) -> Table | None:
    """The official scores with their intervals, and the differences between systems; None if no score is known."""
    means, intervals, differences = (
        _rows(table, metric=OFFICIAL, column=summary.official_column)
        for table in (summary.statistics, summary.intervals, summary.differences)
    )
    rows = [
        [system, percent(mean), _interval(intervals.loc[system]) if system in intervals.index else MISSING, "", ""]
        for system, mean in means["mean"].dropna().items()
    ]
    notes = ["Resampled are clips, the same ones for all systems, and not seeds: those of a system are averaged."]
    if len(intervals) < len(rows):
        few = f"a machine type has fewer than {FEWEST_CLIPS} normal or {FEWEST_CLIPS} anomalous test clips"
        notes.append(f"No interval and no difference: {few}, or its scores cannot be used (see the warnings).")
    for first, second in itertools.combinations(intervals.index, 2):
        if (second, first) not in differences.index:
            notes.append(f"{second} and {first} were tested on different clips: their difference is not known.")
            continue
        row = differences.loc[second, first]
        cells = percent(row["difference"], sign="+"), _interval(row, "+"), f"{row['p']:.3f}"
        rows.append([f"{second} − {first}", *cells, "yes" if row["p"] < CHANCE else "no"])
    title = f"{OFFICIAL.capitalize()} with the {INTERVAL} of a bootstrap over clips, percent; differences are paired"
    headers = ["system", OFFICIAL, INTERVAL, "p", "larger than chance"]
    return Table(title, pd.DataFrame(rows, columns=headers), 1, notes) if rows else None


def _interval_table(summary: Summary) -> Table | None:
    """The intervals of all values; None if none is known."""
    if summary.intervals.empty:
        return None
    systems = summary.intervals.index.unique("system")
    table = summary.wide(_texts(summary.intervals, _interval).reindex(summary.statistics.index)).loc[systems]
    return _table(f"{INTERVAL}s of a bootstrap over clips, percent", table)


def _published_table(summary: Summary) -> Table:
    """Ours beside the published values, with their sources; no rows if nothing was published."""
    kinds = {
        "published": _texts(summary.comparisons, lambda row: percent(row["published"], row["published std"])),
        "difference": _texts(summary.comparisons, _difference),
    }
    texts = pd.DataFrame(kinds).reindex(summary.statistics.index).rename_axis(columns="")
    table = summary.wide(texts.stack()).dropna(how="all")
    title = "Compared with published figures"
    if len(table):
        title += f", percent; *: outside ± {DEVIATIONS} std, the published ones, or else of our seeds"
    notes = [_published_note(system, _rows(summary.comparisons, system=system)) for system in summary.systems]
    return _table(title, table, notes)


def _difference(row: pd.Series) -> str:
    is_outside = not pd.isna(row["outside"]) and row["outside"]
    return percent(row["difference"], sign="+") + ("*" if is_outside else "")


def _published_note(system: str, comparisons: pd.DataFrame) -> str:
    """What was published for a system's score, and how many of ours lie outside."""
    if comparisons.empty:
        return f"{system}: no published figures of this score on these data are known here."
    trials, by, source = comparisons[["trials", "by", "source"]].iloc[0]
    counted = [metric != OFFICIAL and column not in COLUMNS for metric, column in comparisons.index]
    judged = comparisons["outside"][counted].dropna()
    trainings = f"mean of {trials} trainings" if trials > 1 else "one training"
    published = {"organisers": "published by the organisers", "others": "measured by others, not by the organisers"}[by]
    note = f"{system}: {published}, {trainings}: {source}. "
    if judged.empty:
        few = f"fewer than {FEWEST_TRAININGS} trainings, published or of ours"
        return note + f"Of {few}, it cannot be said which figures lie outside: run with SEEDS."
    basis = "" if trials >= FEWEST_TRAININGS else f" (± {DEVIATIONS} std of our seeds)"
    return note + f"{judged.sum()} of {len(judged)} published figures lie outside{basis}."


def _interval(row: pd.Series, sign: str = "") -> str:
    return f"[{percent(row['low'], sign=sign)}, {percent(row['high'], sign=sign)}]"


def _rows(table: pd.DataFrame, **levels: str) -> pd.DataFrame:
    """The rows with these names in the index, which are removed from it."""
    for level, name in levels.items():
        table = table[table.index.get_level_values(level) == name].droplevel(level)
    return table


def _texts(table: pd.DataFrame, text: Callable[[pd.Series], str]) -> pd.Series:
    return pd.Series([text(row) for _, row in table.iterrows()], table.index, dtype=str)


def _table(title: str, texts: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """A table with the index as its names; all but the last of them stand in their first row only."""
    cells, names = texts.fillna(MISSING).reset_index(), list(texts.index.names)
    repeated = {name: cells.duplicated(names[: k + 1]) for k, name in enumerate(names[:-1])}
    cells = cells.assign(**{name: cells[name].mask(rows, "") for name, rows in repeated.items()})
    return Table(title, cells, len(names), notes)


def latex(summary: Summary) -> str:
    """The table of a paper, for the package booktabs: a row a machine type, the metrics of each system side by side."""
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
    heading = [
        f"% {main_table(summary).title}",
        "% \\usepackage{booktabs}",
        "% Where it is too wide: \\usepackage{graphicx}, \\resizebox{\\linewidth}{!}{\\input{summary}}",
    ]
    return "\n".join([*heading, *lines]) + "\n"
