#!/usr/bin/env bash
# Sets up the environment, checks style and shell syntax, and runs the tests: run_tests.sh [options of pytest]
set -eu
root=$(cd -- "$(dirname "$(readlink -f "$0")")" >/dev/null && pwd)
. "$root/tools/setup/setup.sh"

echo "==> environment"
set_up requirements.txt tests/requirements.txt
cd "$root"
echo "==> linter"
"$python" -m ruff check .
"$python" -m ruff format --check .
echo "==> shell syntax"
for script in *.sh tools/*.sh .ci/run; do bash -n "$script"; done
echo "==> tests"
"$python" -m pytest "$@"
