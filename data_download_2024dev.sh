#!/usr/bin/env bash
# Downloads, verifies and unpacks the missing development data of DCASE 2024 Task 2.
#   data_download_2024dev.sh [validate] [--machines fan valve] [--dataset_directory DIR] [--download_url MIRROR]
exec bash "$(dirname "$(readlink -f "$0")")/tools/data_download_20XX.sh" 2024 -d "$@"
