#!/usr/bin/env bash
# Downloads the data of any year: data_download_20XX.sh 2022|DCASE2022T2 -d|-e [validate] [options, see --help]
# `validate` reports missing, corrupt and surplus clips, and downloads nothing.
set -u
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/setup/python.sh"
need_packages
exec "$python" "$root/tools/download.py" "$@"
