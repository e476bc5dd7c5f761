#!/usr/bin/env bash
# usage: slurm_array.sh DATASET -d|-e [--dry-run] [options of train.py]
# Trains and tests all models of a dataset on a Slurm cluster. Submits a job array with a task per model (machine type,
# section, seed of SEEDS="1 2 3"), and a summary job after it. --dry-run prints what would be submitted.
# It is safe to submit again: finished models take seconds, the others resume.
# Resources: edit the lines below, or set sbatch variables: SBATCH_PARTITION, SBATCH_TIMELIMIT, SBATCH_MEM_PER_NODE...
# 100 epochs take 13 minutes. Memory: 0.6 GB for 1000 training clips, 1.1 GB for 4000. For a GPU, add --gres=gpu:1.
#SBATCH --job-name=asd_baseline
#SBATCH --time=1:00:00
#SBATCH --mem=1500M
#SBATCH --cpus-per-task=1
# The signal comes two to three minutes before the time limit. Then the task stops, is requeued, and resumes.
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # sh slurm_array.sh
set -u

fail() { echo "error: $1" >&2 && exit 1; }
from_plan() { sed -n "s/^$1: //p" <<<"$plan"; } # the lines of the plan that begin with "$1: "

run_task() { # runs RUNS_OF_A_TASK in each_machine.py
    local child="" stop="" status command commands task="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
    echo "==> task $SLURM_ARRAY_TASK_ID, attempt $((${SLURM_RESTART_COUNT:-0} + 1)) on $(hostname), $(date)"
    trap 'echo "==> the time limit is near"; stop=yes; kill $child' USR1
    trap 'kill $child; wait $child; exit 143' TERM # scancel, or Slurm requeues the task
    mapfile -t commands < <(from_plan "$SLURM_ARRAY_TASK_ID")
    for command in "${commands[@]}"; do
        bash -c "exec $command" &
        child=$!
        wait $child
        status=$?
        [ $status -eq 137 ] && echo "==> the run was killed (out of memory?)" && stop=yes
        if [ -n "$stop" ]; then
            wait $child # a signal interrupts the first wait
            [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ] && scontrol requeue "$task" && exit
            fail "the task was not requeued. Submit again to resume."
        fi
        [ $status -eq 0 ] || exit $status
    done
    echo "==> done"
}

run_summary() { # $1: the directory of the logs
    for task in $(seq "$(from_plan tasks)"); do
        grep -qs "^==> done" "$1/task_$task.log" || echo "not finished: task $task"
    done
    bash -c "$(from_plan summary)"
}

if [ "${1:-}" = --job ]; then # this script as a job: --job DIRECTORY
    plan=$(cat "$2/plan") || exit 1
    if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then run_task; else run_summary "$2"; fi
    exit
fi

root=$(cd -- "$(dirname "$(readlink -f "$0")")/.." >/dev/null && pwd)
. "$root/tools/setup/python.sh"
usage() { sed -n '2,6s/^# //p' "$0"; }
[[ " $* " =~ " -h " || " $* " =~ " --help " ]] && usage && exit
find_python
plan=$("$python" "$root/tools/each_machine.py" --plan "$@") || { usage >&2 && exit 2; }
directory=$(from_plan logs)
logs=${directory//%/%%} # sbatch replaces a single %
array=("--array=1-$(from_plan tasks)" "--output=$logs/task_%a.log" "$0" --job "$directory")
summary=("--output=$logs/summary.log" "$0" --job "$directory")
if [[ " $* " =~ " --dry-run " ]]; then
    printf '%s\n' "$plan" "sbatch$(printf ' %q' "${array[@]}")" "sbatch --dependency=afterany:JOB$(printf ' %q' "${summary[@]}")"
    exit
fi
command -v sbatch >/dev/null || fail "sbatch not found. Run this on a node that can submit to Slurm."
mkdir -p "$directory" && printf '%s\n' "$plan" >"$directory/plan" || exit 1
job=$(sbatch --parsable "${array[@]}") && job=${job%%;*} || exit 1 # the name of a cluster may follow
after=$(sbatch --parsable "--dependency=afterany:$job" "${summary[@]}") || fail "job $job was submitted without a summary."
echo "submitted $(from_plan tasks) tasks (job $job) and a summary (job ${after%%;*}). Logs: $directory"
