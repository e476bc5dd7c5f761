#!/usr/bin/env bash
# Summarizes all results of a dataset: 03_summarize_results.sh DCASE2024T2 -d|-e [options]
set -u
root=$(cd -- "$(dirname "$(readlink -f "$0")")" >/dev/null && pwd)
. "$root/tools/setup/python.sh"

usage() {
    echo "usage: $0 DATASET -d|--dev|-e|--eval [options of tools/summarize.py]"
    echo "Writes tables and a bar chart of all results of DATASET, such as DCASE2024T2."
    echo "  --report           also write an HTML page with tables, plots, parameters, and ranked clips to play"
    echo "  --resamples 1000   number of bootstrap resamples for intervals and differences"
    echo "SEEDS=\"1 2 3\" $0 ... uses only the results of these seeds."
}

case "${1:-}" in
    -h | --help) usage && exit 0 ;;
esac
find_python
"$python" "$root/tools/summarize.py" "$@"
status=$?
[ $status -eq 2 ] && usage >&2
exit $status
