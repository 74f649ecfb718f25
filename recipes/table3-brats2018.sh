#!/usr/bin/env bash
# The paper's Table 3 on BraTS 2018: HeMIS, U-HVED, KD-Net and MAML in three folds, asked with T1ce alone, on one GPU.
#
#     bash recipes/table3-brats2018.sh DATA OUT              all of it, a fold after the other
#     bash recipes/table3-brats2018.sh DATA OUT prepare      arrays and folds alone
#     bash recipes/table3-brats2018.sh DATA OUT MAML 2       one system on one of the folds 1 to 3
#
# DATA holds HGG/ and LGG/ of the training part, a folder for each of its 285 cases. OUT gets prepared/ (20 to 45 GB), the folds,
# a run for each system and fold, and after each fold the table of the folds until then. Run again it goes on where it stopped.
# It is set for a card of 24 GB; ACCUMULATE=1 RECOMPUTE=false before it for one of 80. How long it takes: recipes/README.md.
set -euo pipefail
data=$1 out=$2 only=${3:-}
python=${PYTHON:-python}
settings=(
    --channels "${CHANNELS:-[32, 64, 128, 256, 320, 320]}" --patch_size "${PATCH:-[128, 128, 128]}" --batch_size 2
    --accumulate "${ACCUMULATE:-2}" --recompute "${RECOMPUTE:-true}" --epochs "${EPOCHS:-600}"
    --steps_per_epoch "${STEPS:-250}" --learning_rate 0.0003 --schedule constant
)
trap : TERM     # what runs is told too, and saves first

mkdir -p "$out"
if [ -z "$only" ] || [ "$only" = prepare ]; then
    [ -e "$out/prepared/task.json" ] ||
        "$python" -m maml_toolkit prepare --data "$data" --task brats2021 --out "$out/prepared"
    [ -e "$out/folds-3.json" ] || "$python" - "$out" <<'END'
import sys
from pathlib import Path

from maml_toolkit import Task, find_cases
from maml_toolkit.data import splits

out = Path(sys.argv[1])
folds = splits.kfold(find_cases(out / "prepared/cases.csv", Task.named(out / "prepared/task.json")), 3)
for number in (1, 2, 3):
    splits.write(out / f"folds-{number}.json", folds[:number])
END
fi

if [ -z "$only" ]; then
    for fold in 1 2 3; do
        "$python" -m maml_toolkit compare --prepared "$out/prepared" --out "$out" --tables '[3]' --single t1ce \
            --seeds '[0]' --split "$out/folds-$fold.json" "${settings[@]}"
    done
elif [ "$only" != prepare ]; then
    fold=$4
    case $only in
        MAML) method=maml own={} ;;
        U-HVED) method=uhved own={} ;;
        KD-Net) method=kdnet own='{"students": ["t1ce"]}' ;;
        HeMIS) method=hemis own={} ;;
        *) echo "found the system $only, expected MAML, U-HVED, KD-Net or HeMIS" >&2; exit 2 ;;
    esac
    [ -e "$out/folds-$fold.json" ] || { echo "found no $out/folds-$fold.json; run it with 'prepare' first" >&2; exit 2; }
    training=$("$python" -c 'import json, sys; print(json.dumps(json.load(open(sys.argv[1]))["folds"][-1]["training"]))' \
        "$out/folds-$fold.json")
    # the name and the seed that compare gives this run, which then finds it done
    "$python" -m maml_toolkit train --prepared "$out/prepared" --run "$out/runs/$only-fold-$((fold - 1))-seed-0" \
        --method "$method" --method_settings "$own" --training "$training" --seed $((fold - 1)) "${settings[@]}" \
        --plan paper --yes true
fi
