#!/usr/bin/env bash
# Shared by the numbered scripts: runs train.py for each machine type. See each_machine.py.
set -u
root=$(cd -- "$(dirname "$(readlink -f "$0")")/.." >/dev/null && pwd)
. "$root/tools/setup/python.sh"
find_python
exec "$python" "$root/tools/each_machine.py" "$@"
