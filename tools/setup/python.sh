# Sourced by the scripts. Sets root (of the project) and python: $PYTHON if given, .venv if it exists, else python3.
root=$(cd -- "$(dirname "${BASH_SOURCE[0]}")/../.." >/dev/null && pwd)
if [ -n "${PYTHON:-}" ]; then
    python=$PYTHON
elif [ -x "$root/.venv/bin/python" ]; then
    python=$root/.venv/bin/python
else
    python=python3
fi

need_packages() { # a word in place of a traceback where the environment has not been set up
    "$python" -c 'import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, ("yaml", "torch", "librosa"))))' && return
    echo "error: $python does not have the packages. Run '$python $root/tools/setup/environment.py requirements.txt'," >&2
    echo "which makes $root/.venv, or install $root/requirements.txt into an environment of yours and name its Python: PYTHON=..." >&2
    exit 1
}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
