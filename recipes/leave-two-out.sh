#!/usr/bin/env bash
# Eight BraTS cases at 2 mm, two left out at a time: trained small on the other six, measured on the two.
#
#     PYTHON=.venv/bin/python bash recipes/leave-two-out.sh DATA OUT [FOLD …]
#
# DATA holds a folder for each case; the cases in the order of their names are paired into folds 1, 2, 3, 4. All of them are
# run where none is named. OUT gets prepared/, and for each fold a run with its metrics.csv. About a quarter of an hour a fold
# on one core; run again it goes on where it stopped.
set -euo pipefail
data=$1 out=$2
shift 2
run=("${PYTHON:-python}" -m maml_toolkit)

mapfile -t cases < <(find -L "$data" -mindepth 1 -maxdepth 1 -type d -printf '%f\n' | sort)
mkdir -p "$out"
[ -e "$out/prepared/task.json" ] || "${run[@]}" prepare --data "$data" --task brats2021 --out "$out/prepared"
for fold in "${@:-1 2 3 4}"; do
    for number in $fold; do
        left=("${cases[@]:2*(number-1):2}")
        training=()
        for case in "${cases[@]}"; do
            [[ " ${left[*]} " == *" $case "* ]] || training+=("\"$case\"")
        done
        listed=$(IFS=,; echo "${training[*]}")
        "${run[@]}" train --prepared "$out/prepared" --run "$out/fold-$number" --training "[$listed]" \
            --channels '[8, 16, 32, 64]' --patch_size '[48, 48, 48]' --epochs 21 --steps_per_epoch 30 --learning_rate 0.003 \
            --schedule one-cycle --seed "${SEED:-0}"
        "${run[@]}" evaluate --run "$out/fold-$number" --data "$out/prepared/cases.csv" \
            --cases "[\"${left[0]}\", \"${left[1]}\"]" --subsets each
    done
done
