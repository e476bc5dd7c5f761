#!/usr/bin/env bash
# Downloads the data of any year: data_download_20XX.sh 2022|DCASE2022T2 -d|-e [validate] [options, see --help]
# `validate` reports missing, corrupt and extra clips, and downloads nothing.
set -u
root=$(cd -- "$(dirname "$(readlink -f "$0")")/.." >/dev/null && pwd)
. "$root/tools/setup/python.sh"
find_python
exec "$python" "$root/tools/download.py" "$@"
