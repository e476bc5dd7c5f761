#!/usr/bin/env bash
# Downloads the additional training data of DCASE 2024 Task 2: the training clips of the evaluation machine types.
#   data_download_2024add.sh [validate] [--machines HairDryer] [--dataset_directory DIR] [--download_url MIRROR]
exec bash "$(dirname "$(readlink -f "$0")")/tools/data_download_20XX.sh" 2024 -e "$@" --parts train
