#!/usr/bin/env bash
# The loop over machine types that the numbered scripts share: see each_machine.py.
set -u
root=$(cd -- "$(dirname "$(readlink -f "$0")")/.." >/dev/null && pwd)
. "$root/tools/setup/python.sh"
find_python
exec "$python" "$root/tools/each_machine.py" "$@"
