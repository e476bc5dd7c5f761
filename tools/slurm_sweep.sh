#!/usr/bin/env bash
# A sweep over machine types, sections and seeds on a Slurm cluster: slurm_sweep.sh DATASET -d|-e [options]; see --help.
set -u
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/python.sh"
need_packages
exec "$python" "$root/tools/slurm/submit.py" "$0" "$@"
