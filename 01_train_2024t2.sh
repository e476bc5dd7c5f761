#!/usr/bin/env bash
# Trains one model: DCASE 2024 Task 2, each machine type of a split.
exec bash "$(dirname "$(readlink -f "$0")")/tools/each_machine.sh" "$0" "Trains one model" DCASE2024T2 "--train_only" "$@"
