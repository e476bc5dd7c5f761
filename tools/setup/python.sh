# Sourced by the scripts, which set `root` (of the project). Sets `python`.
python=${PYTHON:-python3}

find_python() { # the first with the packages: $PYTHON, .venv, python3
    for candidate in "${PYTHON:-}" "$root/.venv/bin/python" python3; do
        "$candidate" -c 'import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, ("yaml", "torch", "librosa"))))' \
            2>/dev/null || continue
        python=$candidate
        [ "$python" = "${PYTHON:-$python}" ] || echo "PYTHON=$PYTHON in the environment lacks the packages: $python is used." >&2
        return
    done # none: startup.py says what to do
}
