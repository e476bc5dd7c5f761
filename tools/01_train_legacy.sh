#!/usr/bin/env bash
# Trains the models of any year's dataset: 01_train_legacy.sh DCASE2022T2 -d|-e [options of train.py]
exec bash "$(dirname "$(readlink -f "$0")")/each_machine.sh" "$0" "Trains one model" "" "--train_only" "$@"
