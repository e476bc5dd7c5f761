"""All results of a dataset → one table: on the terminal, as CSV, as Markdown and as a bar chart.

Usage: 03_summarize_results.sh DCASE2024T2 -d [--result_directory ...] [--export_dir ...]
"""

import re
import sys

import pandas
from tabulate import tabulate

from config import BaselineError, Config, option_parser, parse_options
from datasets.catalog import Dataset, find_dataset
from files import make_writable_directory, write_text
from networks.scores import SCORES
from tools.console import run_command
from tools.metrics import MEANS
from tools.results import read_metrics

COLUMNS = {"h-mean": "harmonic", "a-mean": "arithmetic"}  # of means over all machine types
OFFICIAL = "official score"


def collect(config: Config, dataset: Dataset) -> pandas.DataFrame:
    """Every metric of every section that was tested: columns system, seed, machine, section, metric, value (fraction).

    A system is a score and a tag, such as `MSE` or `MAHALA wide`.

    Raises:
        BaselineError: there are no results.
    """
    root = config.result_directory / f"{config.split}_data"
    rows = []
    for score in SCORES:
        for run in sorted((root / f"{config.export_dir}_{score}" / dataset.name).glob("seed*")):
            name = re.fullmatch(r"seed(\d+)(?:_(.*))?", run.name)
            if name is None:
                continue
            system = " ".join(filter(None, (score, name[2])))
            for machine in dataset.tested(config.split):
                path = run / f"result_{machine}.csv"
                if path.exists():
                    for section, metrics in read_metrics(path).items():
                        rows += [(system, int(name[1]), machine, section, m, v) for m, v in metrics.items()]
    if not rows:
        where = root / f"{config.export_dir}_<score>" / dataset.name
        tests = (dataset.script(step, config.split) for step in ("02a_test", "02b_test"))
        hint = f"Run {' and '.join(tests)} first."
        if any(root.glob(f"{config.export_dir}_*/{dataset.name}/seed*/anomaly_score_*.csv")):
            hint = "There are anomaly scores, but the labels of these clips are not known."
        raise BaselineError(f"{where}: no result_<machine>.csv to summarize. {hint}")
    return pandas.DataFrame(rows, columns=["system", "seed", "machine", "section", "metric", "value"])


def summarize_run(run: pandas.DataFrame, dataset: Dataset, split: str) -> pandas.DataFrame:
    """One system with one seed: a row for each metric of the official score and for the score, fractions.

    The columns are the means over all sections of all machine types, then each machine type (the mean over its
    sections). Where a machine type lacks a metric or a section, what rests on it is `nan`: it could not be compared.
    """
    machines = dataset.tested(split)
    official_mean = MEANS[dataset.official_score["mean"]]
    metrics = dataset.official_score["metrics"]
    there = run.set_index(["machine", "section", "metric"])["value"].unstack("metric")  # noqa: PD010
    wanted = pandas.MultiIndex.from_tuples([(m.name, section) for m in machines.values() for section in m.sections])
    table = there.reindex(index=there.index.union(wanted), columns=metrics)  # nan for what is not there
    rows = {}
    for name, counted in [*((metric, [metric]) for metric in metrics), (OFFICIAL, metrics)]:
        means = {column: MEANS[mean](table[counted].to_numpy().ravel()) for column, mean in COLUMNS.items()}
        cells = {machine: official_mean(table.loc[[machine], counted].to_numpy().ravel()) for machine in machines}
        rows[name] = means | cells
    return pandas.DataFrame.from_dict(rows, orient="index").rename_axis("metric")


def summarize(results: pandas.DataFrame, dataset: Dataset, split: str) -> pandas.DataFrame:
    """A block of rows for each system: index system, seed, metric; columns as of summarize_run."""
    return pandas.concat(
        {
            (system, seed): summarize_run(run, dataset, split)
            for (system, seed), run in results.groupby(["system", "seed"], sort=False)
        },
        names=["system", "seed"],
    )


def over_seeds(summary: pandas.DataFrame) -> pandas.DataFrame:
    """Mean and standard deviation (of the sample, n - 1) over seeds: index system, metric, statistic.

    A cell counts the seeds that have it; the standard deviation of a single one is `nan`.
    """
    groups = summary.groupby(["system", "metric"], sort=False)
    both = pandas.concat({"mean": groups.mean(), "std": groups.std(ddof=1)}, names=["statistic"])
    blocks = dict.fromkeys((system, metric) for system, _, metric in summary.index)
    rows = [(*block, statistic) for block in blocks for statistic in ("mean", "std")]
    return both.reorder_levels(["system", "metric", "statistic"]).reindex(rows)


def table_rows(statistics: pandas.DataFrame) -> list[list[str]]:
    """The table as people read it: percent, `mean ± std` where there are several seeds, `–` where there is no value."""
    means, deviations = (100 * statistics.xs(name, level="statistic") for name in ("mean", "std"))
    rows = []
    for (system, metric), row in means.iterrows():
        cells = [_cell(mean, deviations.loc[(system, metric), column]) for column, mean in row.items()]
        first_of_system = not any(system == other for other, _ in means.index[: len(rows)])
        rows.append([system if first_of_system else "", metric, *cells])
    return rows


def _cell(mean: float, deviation: float) -> str:
    if pandas.isna(mean):
        return "–"
    return f"{mean:.2f}" if pandas.isna(deviation) else f"{mean:.2f} ± {deviation:.2f}"


def missing_machines(summary: pandas.DataFrame, dataset: Dataset, split: str) -> list[str]:
    """A line for each system and seed that lacks a metric of some machine types."""
    lines = []
    for (system, seed), run in summary.groupby(["system", "seed"], sort=False):
        missing = [machine for machine in dataset.tested(split) if run[machine].isna().any()]
        if missing:
            lines.append(f"{system}, seed {seed}: no full results of {', '.join(missing)}; its means are left out.")
    return lines


def write_summary(config: Config, dataset: Dataset) -> None:
    """Read all results; write summary.csv, summary.md and summary.png; print the table."""
    directory = config.result_directory / f"{config.split}_data" / config.export_dir / "summarize" / dataset.name
    results = collect(config, dataset)
    make_writable_directory(directory)
    summary = summarize(results, dataset, config.split)
    statistics = over_seeds(summary)

    seeds_of = results.groupby("system")["seed"].nunique()
    csv = statistics.dropna(how="all").reset_index()
    csv.insert(1, "seeds", csv["system"].map(seeds_of))
    write_text(directory / "summary.csv", csv.to_csv(index=False))

    headers = ["system", "metric", *summary.columns]
    rows = table_rows(statistics)
    seeds = sorted(set(results["seed"]))
    title = f"{dataset.name}, {'development' if config.dev else 'evaluation'} data"
    caption = f"{title}: percent, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    official = next(column for column, mean in COLUMNS.items() if mean == dataset.official_score["mean"])
    caption += f"; the {OFFICIAL} is its {official}"
    caption += "; mean ± standard deviation over seeds" if len(seeds) > 1 else ""
    notes = missing_machines(summary, dataset, config.split)
    markdown = tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=_alignment(headers))
    write_text(directory / "summary.md", "\n\n".join([f"{caption}.", markdown, *notes]) + "\n")

    print(f"{caption}\n")
    print(tabulate(rows, headers, tablefmt="simple", disable_numparse=True, colalign=_alignment(headers)))
    print("\n" + "\n".join([*(f"warning: {note}" for note in notes), f"-> {directory}"]))
    try:
        from tools.plots import plot_summary

        bars = (100 * summary.drop(columns=[column for column in COLUMNS if column != official])).reset_index()
        bars = bars.melt(["system", "seed", "metric"], var_name="machine").dropna(subset="value")
        if not bars.empty:
            plot_summary(directory / "summary.png", title, bars)
    except Exception as error:  # a picture never costs the tables
        print(f"warning: {directory / 'summary.png'} could not be drawn: {error}", file=sys.stderr)


def _alignment(headers: list[str]) -> list[str]:
    return ["left", "left"] + ["right"] * (len(headers) - 2)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = option_parser("03_summarize_results.sh", "Summarizes all results of a dataset.")
    parser.add_argument("dataset", help="such as DCASE2024T2")
    _, config = parse_options(parser, arguments)
    write_summary(config, find_dataset(config.dataset))


if __name__ == "__main__":
    sys.exit(run_command(main))
