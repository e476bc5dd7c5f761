#!/usr/bin/env bash
# The loop over machine types that the numbered scripts share:
#   each_machine.sh SCRIPT "PURPOSE" DATASET "OPTIONS" ARGUMENTS...
# runs train.py with OPTIONS and ARGUMENTS (the split, then any of train.py's own) for each machine type of DATASET.
# A machine type that fails does not stop the others; it is named at the end, and the exit status is 1.
# JOBS=2 in the environment runs two machine types at a time, with lines in place of progress bars.
set -u
script=$1 purpose=$2 dataset=$3 options=$4
shift 4
. "$(dirname "${BASH_SOURCE[0]}")/python.sh"

usage() {
    echo "usage: $script -d|--dev|-e|--eval [options of train.py, such as --epochs 5]"
    echo "$purpose, for each machine type of $dataset."
    echo "  -d, --dev   development dataset      -e, --eval   evaluation dataset"
    echo "Options and their default values: baseline.yaml and $python $root/train.py --help"
    echo "JOBS=2 $script ... runs two machine types at a time."
}

wrong() {
    echo "error: $1" >&2
    usage >&2
    exit 2
}

case "${1:-}" in
    -d | --dev | -e | --eval) split=$1 ;;
    -h | --help) usage && exit 0 ;;
    *) wrong "the first argument must be -d or -e${1:+, not '$1'}." ;;
esac
for argument in "$@"; do
    case "$argument" in
        -h | --help) usage && exit 0 ;;
        --dataset | --dataset=*) wrong "--dataset: this script runs all machine types. For one: train.py $argument ..." ;;
        --score | --score=* | --train_only | --test_only)
            wrong "$argument: this script has chosen already ($options). Take another script, or train.py." ;;
    esac
done
jobs=${JOBS:-1}
case "$jobs" in
    '' | *[!0-9]* | 0*) echo "error: JOBS must be a number from 1 on, not '$jobs'." >&2 && exit 2 ;;
esac

need_packages
machines=$("$python" "$root/datasets/catalog.py" "$dataset" "$split") || exit
# A wrong option is said once, here. $options is a list of words, hence without quotes.
# shellcheck disable=SC2086
"$python" "$root/config.py" --dataset "$dataset" $options "$@" || exit
notes=$(mktemp -d) || exit
trap 'rm -rf "$notes"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Runs one machine type and notes its exit status. For xargs, 255 means: do not start any more.
export one='
    exec 2>&3  # xargs itself has nothing to say that the end of this script does not
    machine=$0 notes=$1 jobs=$2
    shift 2
    export RUN_LOG_NOTE="$notes/$machine.log"
    if [ "$jobs" -gt 1 ]; then
        "$@" 2> >(cat >&2)  # not a terminal: no progress bars, which would overwrite each other
    else
        "$@"
    fi
    status=$?
    echo "$status" >"$notes/$machine.status"
    [ "$status" -eq 0 ] && exit 0
    [ "$status" -eq 2 ] || [ "$status" -eq 130 ] && exit 255
    exit 1
'
# shellcheck disable=SC2086
printf '%s\n' "$machines" | xargs -P "$jobs" -I MACHINE_TYPE bash -c "$one" MACHINE_TYPE "$notes" "$jobs" \
    "$python" "$root/train.py" --dataset "${dataset}MACHINE_TYPE" $options "$@" 3>&2 2>/dev/null

failed=0
for machine in $machines; do
    status=$(cat "$notes/$machine.status" 2>/dev/null)
    [ "$status" = 0 ] && continue
    [ $failed -eq 0 ] && echo "$script: failed:" >&2
    failed=1
    log=$(cat "$notes/$machine.log" 2>/dev/null)
    echo "  $machine (${status:+exit status }${status:-not run, or killed}), log: ${log:-none}" >&2
done
exit $failed
