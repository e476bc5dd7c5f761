#!/usr/bin/env bash
# Tests the models of any year's dataset with the mean squared error: 02a_test_legacy.sh DCASE2022T2 -d|-e [options of train.py]
exec bash "$(dirname "$(readlink -f "$0")")/each_machine.sh" "$0" "Tests the trained models with the mean squared error (MSE)" "" "--test_only --score MSE" "$@"
