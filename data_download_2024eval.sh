#!/usr/bin/env bash
# Downloads the test clips of the evaluation machine types of DCASE 2024 Task 2, and their labels.
#   data_download_2024eval.sh [validate] [--machines HairDryer] [--dataset_directory DIR] [--download_url MIRROR]
exec bash "$(dirname "$(readlink -f "$0")")/tools/data_download_20XX.sh" 2024 -e "$@" --parts test labels
