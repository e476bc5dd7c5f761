#!/usr/bin/env bash
# The loop over machine types that the numbered scripts share: see each_machine.py.
set -u
. "$(dirname "${BASH_SOURCE[0]}")/setup/python.sh"
need_packages
exec "$python" "$root/tools/each_machine.py" "$@"
