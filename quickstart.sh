#!/usr/bin/env bash
# Runs the baseline on generated clips: installs the packages into .venv, generates clips of seven machine types, and
# trains, tests and summarizes them with the numbered scripts. All other files are in demo/.
#   quickstart.sh [options of train.py, such as --epochs 10]
set -eu
case "${1:-}" in -h | --help) sed -n '2,4s/^# *//p' "$0" && exit 0 ;; esac
root=$(cd -- "$(dirname "$(readlink -f "$0")")" >/dev/null && pwd)
. "$root/tools/setup/setup.sh"
demo=$root/demo
summary=$demo/results/dev_data/baseline/summarize/DCASE2024T2
run() {
    script=$root/$1 && shift
    bash "$script" "$@" --dataset_directory "$demo/data" --model_directory "$demo/models" \
        --result_directory "$demo/results" --export_dir baseline
}

echo "==> 1/6 environment"
set_up requirements.txt
options="--portable True --use_cuda False"
"$python" -c 'import sys; sys.path.append(sys.argv[1]); import portable; sys.exit(portable.unsuitable() or 0)' "$root" || {
    echo "So --portable True cannot be used, and the table will differ from the README's, as with another seed."
    options=
}
start=$(date +%s)
echo "==> 2/6 demo clips: tools/make_demo_data.py"
"$python" "$root/tools/make_demo_data.py" --dataset_directory "$demo/data"
echo "==> 3/6 training: 01_train_2024t2.sh -d $options"
run 01_train_2024t2.sh -d $options "$@"
echo "==> 4/6 test with the mean squared error: 02a_test_2024t2.sh -d $options"
run 02a_test_2024t2.sh -d $options "$@"
echo "==> 5/6 test with the selective Mahalanobis distance: 02b_test_2024t2.sh -d $options"
run 02b_test_2024t2.sh -d $options "$@"
echo "==> 6/6 summary: 03_summarize_results.sh DCASE2024T2 -d --report"
run 03_summarize_results.sh DCASE2024T2 -d --report

echo
echo "Done in $(($(date +%s) - start)) s, without the setup of the environment."
if [ $# -eq 0 ] && [ -n "$options" ]; then
    "$python" "$root/tools/setup/readme_table.py" "$summary/summary.md"
fi
echo "The clips are generated, so the values show how the baseline behaves, not how good it is. Results:"
echo "  report for the browser    $summary/report.html"
echo "  summary                   $summary/summary.png"
echo "  scores, ROC curves        $demo/results/dev_data/baseline_*/DCASE2024T2/seed*/{anomaly_score,roc}_*.png"
echo "  losses                    $demo/models/baseline/dev_data/DCASE2024T2/seed*/*/log.png"
