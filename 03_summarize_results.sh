#!/usr/bin/env bash
# Summarizes all results of a dataset: 03_summarize_results.sh DCASE2024T2 -d|-e [options]
set -u
root=$(cd -- "$(dirname "$(readlink -f "$0")")" >/dev/null && pwd)
. "$root/tools/setup/python.sh"

usage() {
    echo "usage: $0 DATASET -d|--dev|-e|--eval [options, such as --result_directory ./results]"
    echo "Tables and a bar chart of all scores, tags and seeds that were tested. DATASET is a name such as DCASE2024T2."
    echo "  --report           one HTML page of it all, too: tables, pictures, parameters, the clips ranked and audible"
    echo "  --resamples 1000   how often the clips are resampled for intervals and differences"
    echo "SEEDS=\"1 2 3\" $0 ... takes the results of these seeds only."
}

case "${1:-}" in
    -h | --help) usage && exit 0 ;;
esac
find_python
"$python" "$root/tools/summarize.py" "$@"
status=$?
[ $status -eq 2 ] && usage >&2
exit $status
