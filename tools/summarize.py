"""Summarize all results of a dataset: tables (terminal, CSV, Markdown, LaTeX), a bar chart, an HTML report.

Usage: 03_summarize_results.sh DCASE2024T2 -d [--result_directory ...] [--export_dir ...] [--report]
"""

import sys
from collections.abc import Iterable
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # imports work from any directory
    from startup import prepare

    prepare()

from config import TEST_KEYS, TRAINING_KEYS, number, option_parser, parse_options, seeds_of_environment
from datasets.catalog import find_dataset
from files import make_writable_directory, write_text
from portable import start_portable, unsuitable
from tools.results.draw import save_plot
from tools.results.official import COLUMNS
from tools.results.summary import Summary, summarize
from tools.results.tables import Table, all_tables, latex, terminal_width
from tools.training.console import log, run_command, show

RESAMPLES = 1000
FILTERS = tuple(dict.fromkeys(("score", "seed", "model_name_suffix", *TRAINING_KEYS, *TEST_KEYS)))
PLACES = ("dataset_directory", "model_directory", "result_directory", "cache_directory", "export_dir")
OPTIONS = ("dev", "eval", *PLACES, *FILTERS)


def write_tables(summary: Summary, tables: Iterable[Table], directory: Path) -> None:
    """Write the tables: CSV with fractions at full precision, Markdown and LaTeX in percent."""
    write_text(directory / "summary.md", "\n".join(table.markdown() for table in tables))
    write_text(directory / "summary.tex", latex(summary))
    statistics = summary.wide(summary.statistics.rename_axis(columns="statistic").stack()).dropna(how="all")
    statistics = statistics.reset_index()
    seeds = {system: len(runs) for system, runs in summary.systems.items()}
    statistics.insert(1, "seeds", statistics["system"].map(seeds))
    intervals = summary.statistics[["mean"]].rename(columns={"mean": "value"}).join(summary.intervals, how="right")
    files = {
        "summary": statistics,
        "intervals": intervals.reset_index(),
        "differences": summary.differences.reset_index(),
        "published": summary.comparisons.reset_index(),
    }
    for name, table in files.items():
        write_text(directory / f"{name}.csv", table.to_csv(index=False))


def draw_chart(summary: Summary, path: Path) -> None:
    """Draw the bar chart."""
    left_out = COLUMNS.keys() - {summary.official_column}
    values = summary.by_seed["value"].dropna().drop(index=left_out, level="column")
    bars = [(system, metric, column, 100 * value) for (system, _, metric, column), value in values.items()]
    save_plot("plot_summary", path, summary.title, bars)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    text = "Summarizes all results of a dataset. Use --seed, -tag, --score and other parameters to select some of them."
    parser = option_parser("03_summarize_results.sh", text, OPTIONS)
    parser.add_argument("dataset", help="name of the dataset, such as DCASE2024T2")
    parser.add_argument("--report", action="store_true", default=False, help="also write report.html")
    text = f"number of bootstrap resamples for intervals (default: {RESAMPLES})"
    parser.add_argument("--resamples", type=number(int, at_least=1, at_most=10_000), default=RESAMPLES, help=text)
    options, config = parse_options(parser, arguments)
    if not unsuitable():  # the results can be shown on any machine
        start_portable(config)
    dataset = find_dataset(config.dataset, config.dataset_directory)
    directory = config.result_directory / f"{config.split}_data" / config.export_dir / "summarize" / dataset.name
    wanted = {key: value for key, value in options.given.items() if key in FILTERS}
    summary = summarize(config, dataset, seeds_of_environment(), options.resamples, wanted)
    make_writable_directory(directory)
    tables = all_tables(summary)
    report = directory / "report.html"
    write_tables(summary, tables.values(), directory)
    draw_chart(summary, directory / "summary.png")
    if options.report:
        from tools.results.report import write_report

        write_report(summary, report)
    elif report.exists():
        log.warning("%s is from an earlier summary. Use --report to write it again.", report)
    width = terminal_width()
    show("\n".join(table.text(width) for name, table in tables.items() if name != "intervals"))
    show(f"-> {directory}")
    if options.report:
        show(f"-> {report}")


if __name__ == "__main__":
    sys.exit(run_command(main))
