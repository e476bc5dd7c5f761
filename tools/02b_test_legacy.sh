#!/usr/bin/env bash
# Tests the models of any year's dataset with the selective Mahalanobis distance: 02b_test_legacy.sh DCASE2022T2 -d|-e [options of train.py]
exec bash "$(dirname "$(readlink -f "$0")")/each_machine.sh" "$0" "Tests the trained models with the selective Mahalanobis distance (MAHALA)" "" "--test_only --score MAHALA" "$@"
