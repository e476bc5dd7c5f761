#!/usr/bin/env bash
# Trains one model for each machine type of DCASE 2024 Task 2.
exec bash "$(dirname "$(readlink -f "$0")")/tools/each_machine.sh" "$0" "Trains one model" DCASE2024T2 "--train_only" "$@"
