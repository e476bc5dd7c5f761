#!/usr/bin/env bash
# The loop over machine types that the numbered scripts share:
#   each_machine.sh SCRIPT "PURPOSE" DATASET "OPTIONS" ARGUMENTS...
# runs train.py with OPTIONS and ARGUMENTS (the split, then any of train.py's own) for each machine type of DATASET, and
# for each section of machine types that have several. Where DATASET is empty, the first argument names it.
# A machine type that fails does not stop the others; it is named at the end, and the exit status is 1.
# JOBS=2 in the environment runs two machine types at a time, with lines in place of progress bars.
set -u
script=$1 purpose=$2 dataset=$3 options=$4
shift 4
. "$(dirname "${BASH_SOURCE[0]}")/python.sh"

any_dataset=
if [ -z "$dataset" ]; then
    any_dataset="DATASET "
    case "${1:-}" in
        -* | '') ;;
        *) dataset=$1 && shift ;;
    esac
fi

usage() {
    echo "usage: $script $any_dataset-d|--dev|-e|--eval [options of train.py, such as --epochs 5]"
    echo "$purpose for each machine type of ${dataset:-DATASET, such as DCASE2022T2}; for each section of machine types that have several."
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
    -h | --help) usage && exit 0 ;;
esac
[ -n "$dataset" ] || wrong "name a dataset first, such as DCASE2022T2."
case "${1:-}" in
    -d | --dev | -e | --eval) split=$1 ;;
    *) wrong "the first argument${any_dataset:+ after the dataset} must be -d or -e${1:+, not '$1'}." ;;
esac
each=--models
for argument in "$@"; do
    case "$argument" in
        -h | --help) usage && exit 0 ;;
        --use_ids | --use_ids=*) each=--machines ;; # one model of just these sections for each machine type
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
case "$options" in
    *--test_only*) tested=--tested ;;
    *) tested= ;;
esac
models=$("$python" "$root/datasets/catalog.py" "$dataset" "$split" $each $tested) || exit
[ -n "$models" ] || { echo "error: no machine type of $dataset has test clips." >&2 && exit 1; }
# A wrong option is said once, here. $options is a list of words, hence without quotes.
# shellcheck disable=SC2086
"$python" "$root/config.py" --dataset "$dataset" $options "$@" || exit
notes=$(mktemp -d) || exit
trap 'rm -rf "$notes"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Runs one model, "fan" or "fan 01", and notes its exit status. For xargs, 255 means: do not start any more.
export one='
    exec 2>&3  # xargs itself has nothing to say that the end of this script does not
    read -r machine section <<<"$0"
    note=$1/$machine${section:+_section_$section} jobs=$2 each=$3 python=$4 train_py=$5 dataset=$6
    shift 6
    export RUN_LOG_NOTE="$note.log"
    set -- "$python" "$train_py" --dataset "$dataset$machine" ${section:+--use_ids "$section"} "$@"
    if [ "$jobs" -gt 1 ]; then
        "$@" 2> >(cat >&2)  # not a terminal: no progress bars, which would overwrite each other
    else
        "$@"
    fi
    status=$?
    echo "$status" >"$note.status"
    [ "$status" -eq 0 ] && exit 0
    [ "$status" -eq 130 ] && exit 255
    [ "$status" -eq 2 ] && [ "$each" = --models ] && exit 255  # an option wrong for all; sections may be so for some
    exit 1
'
# shellcheck disable=SC2086
printf '%s\n' "$models" | xargs -P "$jobs" -I MODEL bash -c "$one" MODEL "$notes" "$jobs" $each \
    "$python" "$root/train.py" "$dataset" $options "$@" 3>&2 2>/dev/null

failed=0
while read -r machine section; do
    name=$machine${section:+_section_$section}
    status=$(cat "$notes/$name.status" 2>/dev/null)
    [ "$status" = 0 ] && continue
    [ $failed -eq 0 ] && echo "$script: failed:" >&2
    failed=1
    log=$(cat "$notes/$name.log" 2>/dev/null)
    echo "  $name (${status:+exit status }${status:-not run, or killed}), log: ${log:-none}" >&2
done <<<"$models"
exit $failed
