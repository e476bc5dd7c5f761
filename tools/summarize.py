"""All results of a dataset → tables: on the terminal, as CSV, Markdown and LaTeX; a bar chart; an HTML page.

Usage: 03_summarize_results.sh DCASE2024T2 -d [--result_directory ...] [--export_dir ...] [--report]
"""

import math
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while the imports take their time

from config import option_parser, parse_options, seeds_of_environment
from datasets.catalog import find_dataset
from files import make_writable_directory, write_csv, write_text
from tools.results.metrics import COLUMNS
from tools.results.summary import Summary, summarize
from tools.results.tables import interval_table, latex, main_table, official_table, published_table
from tools.training.console import open_console, run_command, whole_number

RESAMPLES = 1000


def write_tables(summary: Summary, directory: Path) -> None:
    """Write the summary's files: fractions with all digits as CSV, percent as Markdown and LaTeX."""
    tables = main_table(summary), official_table(summary), interval_table(summary), published_table(summary)
    write_text(directory / "summary.md", "\n".join(table.markdown() for table in tables if table))
    write_text(directory / "summary.tex", latex(summary))
    seeds = {system: len(runs) for system, runs in summary.systems.items()}
    rows = [
        [system, seeds[system], row, name, *(_known(columns[column][place]) for column in summary.columns)]
        for (system, row), columns in summary.statistics.items()
        for place, name in enumerate(("mean", "std"))
        if not all(math.isnan(statistic[place]) for statistic in columns.values())
    ]
    write_csv(directory / "summary.csv", [["system", "seeds", "metric", "statistic", *summary.columns], *rows])
    _write_intervals(summary, directory / "intervals.csv")
    _write_differences(summary, directory / "differences.csv")
    _write_published(summary, directory / "published.csv")


def _write_intervals(summary: Summary, path: Path) -> None:
    rows = [
        [system, *figure, summary.value(system, figure), *interval]
        for system, intervals in summary.intervals.items()
        for figure, interval in intervals.items()
    ]
    write_csv(path, [["system", "metric", "column", "value", "low", "high"], *rows])


def _write_differences(summary: Summary, path: Path) -> None:
    rows = [
        [second, first, *figure, difference.value, *difference.interval, difference.p]
        for (first, second), differences in summary.differences.items()
        for figure, difference in differences.items()
    ]
    write_csv(path, [["system", "minus", "metric", "column", "difference", "low", "high", "p"], *rows])


def _write_published(summary: Summary, path: Path) -> None:
    header = ("system", "metric", "column", "ours", "std", "published", "published std", "difference", "outside")
    rows = []
    for system, found in summary.comparisons.items():
        for figure, c in found.items():
            published = c.published.mean, _known(c.published.deviation)
            outside = {None: "", True: 1, False: 0}[c.is_outside]
            ours = _known(c.ours), _known(c.our_deviation)
            rows.append([system, *figure, *ours, *published, _known(c.difference), outside])
    write_csv(path, [header, *rows])


def _known(value: float) -> float | str:
    return "" if math.isnan(value) else value


def draw(summary: Summary, path: Path) -> None:
    """Draw the bar chart; a picture never costs the tables."""
    shown = [column for column in summary.columns if column not in COLUMNS or column == summary.official_column]
    bars = [
        (system, row, column, 100 * columns[column])
        for (system, _), rows in summary.values.items()
        for row, columns in rows.items()
        for column in shown
        if not math.isnan(columns[column])
    ]
    try:
        from tools.results.plots import plot_summary

        plot_summary(path, summary.title, bars)
    except Exception as error:
        print(f"warning: {path} could not be drawn: {error}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = option_parser("03_summarize_results.sh", "Summarizes all results of a dataset.")
    parser.add_argument("dataset", help="such as DCASE2024T2")
    parser.add_argument("--report", action="store_true", default=False, help="write report.html, too")
    text = f"how often the clips are resampled for intervals (default {RESAMPLES})"
    parser.add_argument("--resamples", type=whole_number(10_000), default=RESAMPLES, help=text)
    options, config = parse_options(parser, arguments)
    dataset = find_dataset(config.dataset)
    open_console()
    directory = config.result_directory / f"{config.split}_data" / config.export_dir / "summarize" / dataset.name
    summary = summarize(config, dataset, seeds_of_environment(), options.resamples)
    make_writable_directory(directory)
    write_tables(summary, directory)
    for table in filter(None, (main_table(summary), official_table(summary), published_table(summary))):
        print(table.text())
    print(f"-> {directory}")
    draw(summary, directory / "summary.png")
    if options.report:
        from tools.results.report import write_report

        write_report(summary, directory / "report.html")
        print(f"-> {directory / 'report.html'}")


if __name__ == "__main__":
    sys.exit(run_command(main))
