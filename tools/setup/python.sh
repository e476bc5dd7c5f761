# Sourced by the scripts, which set `root` (of the project). Sets `python`.
python=${PYTHON:-python3}

find_python() { # the first Python with the packages: $PYTHON, .venv, python3
    for candidate in "${PYTHON:-}" "$root/.venv/bin/python" python3; do
        "$candidate" -c 'import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, ("yaml", "torch", "librosa"))))' \
            2>/dev/null || continue
        python=$candidate
        [ "$python" = "${PYTHON:-$python}" ] || echo "PYTHON=$PYTHON does not have the packages. Using $python instead." >&2
        return
    done # if there is none, startup.py says what to do
}
