"""Download a dataset, or validate the clips on disk.

python tools/download.py DATASET -d|-e [--machines fan valve] [--parts train test labels]
python tools/download.py DATASET -d|-e validate
"""

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # imports work from any directory
    from startup import prepare

    prepare()

from tabulate import tabulate

from config import UsageError, nearest, option_parser, parse_options
from datasets.catalog import Machine, find_dataset
from datasets.download.fetch import PARTS, download
from datasets.download.validate import validate
from tools.training.console import log, run_command, show

SHOWN_NAMES = 10  # of missing, corrupt or extra clips


def validate_all(machines: list[Machine], dataset_directory: Path, parts: Sequence[str]) -> bool:
    """Print a table of all archives, then the missing, corrupt and extra clips. Returns whether there are none."""
    archives = [(m, archive) for m in machines for archive in m.archives if set(archive.holds) & set(parts)]
    found = [(m.name, archive.name, validate(m, archive, dataset_directory)) for m, archive in archives]
    rows = [(name, a, f.files, len(f.missing), len(f.corrupt), len(f.extra), f.note) for name, a, f in found]
    show(tabulate(rows, ["machine type", "archive", "files", "missing", "corrupt", "extra", ""]))
    for machine, _, findings in found:
        for kind in ("missing", "corrupt", "extra"):
            names = getattr(findings, kind)
            if names:
                more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
                log.info("%s, %s: %s%s", machine, kind, " ".join(names[:SHOWN_NAMES]), more)
    return all(findings.intact and not findings.extra and not findings.note for _, _, findings in found)


def main(arguments: list[str] | None = None) -> bool:
    """Run the command. Returns whether it succeeded."""
    parser = option_parser(
        "download.py",
        "Downloads, verifies and unpacks the missing clips and labels of a dataset. "
        "`validate` reports missing, corrupt and extra clips, and downloads nothing.",
        options=("dev", "eval", "dataset_directory", "download_url"),
    )
    parser.add_argument("dataset", help="name or year, such as DCASE2024T2 or 2024")
    parser.add_argument("action", nargs="?", choices=("download", "validate"), default="download")
    parser.add_argument("--machines", nargs="+", metavar="TYPE", help="only these machine types (default: all)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="only these parts (default: all)")
    own, config = parse_options(parser, arguments)
    name = f"DCASE{config.dataset}T2" if config.dataset.isdigit() else config.dataset
    known = find_dataset(name, config.dataset_directory).machines[config.split]
    for wrong in set(own.machines or ()) - set(known):
        raise UsageError(f"--machines: no machine type '{wrong}'.{nearest(wrong, known)} Known: {' '.join(known)}.")
    machines = [known[machine] for machine in own.machines or known]
    published = {part for machine in machines for archive in machine.archives for part in archive.holds}
    if not published:
        raise UsageError(f"{name} has no {config.split} data to download.")
    for part in set(own.parts) - published - {"labels"}:
        log.info("%s: the catalog lists no %s clips for the %s data", name, part, config.split)
    if own.action == "validate":
        return validate_all(machines, config.dataset_directory, own.parts)
    failed = download(machines, config.dataset_directory, own.parts, config.download_url)
    if failed:
        show(f"failed: {' '.join(failed)}. The reasons are above. Run the same command to try again.", sys.stderr)
    return not failed


if __name__ == "__main__":
    sys.exit(run_command(main, "Downloaded data is kept. Run the same command to resume."))
