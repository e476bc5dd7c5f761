#!/usr/bin/env bash
# Tests the trained models of DCASE 2024 Task 2 with the selective Mahalanobis distance (MAHALA).
exec bash "$(dirname "$(readlink -f "$0")")/tools/each_machine.sh" "$0" "Tests the trained models with the selective Mahalanobis distance (MAHALA)" DCASE2024T2 "--test_only --score MAHALA" "$@"
