# Sourced by quickstart.sh and run_tests.sh, which set `root`. set_up REQUIREMENTS... creates .venv with the first
# suitable Python, and sets `python`.

# If standard output or error is closed (cron, systemd, `>&-`), the shell may have opened this script there.
{ [ -e /dev/fd/1 ] && ! [ /dev/fd/1 -ef "$0" ]; } || exec >/dev/null
{ [ -e /dev/fd/2 ] && ! [ /dev/fd/2 -ef "$0" ]; } || exec 2>/dev/null

set_up() {
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10 python; do
        if "$candidate" "$root/startup.py" 2>/dev/null; then
            [ "$candidate" = "${PYTHON:-$candidate}" ] || echo "PYTHON=$PYTHON is not Python 3.10 to 3.13. Using $candidate instead." >&2
            "$candidate" "$root/tools/setup/environment.py" "$@" || exit
            unset PYTHON
            python=$root/.venv/bin/python
            return
        fi
    done
    echo "error: no Python 3.10 to 3.13 found. Install one, or give its path: PYTHON=/path/to/python3.12 $0" >&2
    exit 1
}
