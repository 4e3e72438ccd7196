#!/bin/sh
# Orthogonal gradient descent (recipes/ogd.yaml) as a chain of runs: each task starts from the weights of the task
# before, stays off the gradients that the tasks before have stored, and adds 10 snapshots of its own.
#     sh scripts/ogd.sh [DATASETS...] [more flags for every task]
# Without datasets: MTIL order I with its settings. SAVE=... is the folder, PYTHON=... is used. The same in one process:
#     sh scripts/recipe.sh ogd mtil-1
# It stops at the first task that fails; the same command then continues there.
# No published figures; not measured here.
set -e
datasets=
while [ $# -gt 0 ]; do
    case $1 in
        -*) break ;;
        *) datasets="$datasets $1"; shift ;;
    esac
done
: "${datasets:=Aircraft Caltech101 CIFAR100 DTD EuroSAT Flowers Food MNIST OxfordPet StanfordCars SUN397}"
case " $* " in
    *" --save "*|*" --save="*|*" --load "*|*" --load="*)
        echo "the loop sets --save and --load; give the folder as SAVE=FOLDER" >&2
        exit 2 ;;
esac
save=${SAVE:-ckpt/ogd}
all=$(echo $datasets | tr ' ' ',')
previous=
for dataset in $datasets; do
    case $dataset in
        Aircraft|MNIST) lr=5e-5 ;;
        *) lr=1e-5 ;;
    esac
    sh "$(dirname "$0")/task.sh" "$save" "$dataset" "${previous:+$save/$previous.pth}" --method finetune \
        --train-mode whole --iterations 1000 --batch-size 64 --lr $lr --ls 0.2 --warmup-length 100 --precision fp32 \
        --eval-datasets "$all" --orthogonal-gradients 10 \
        ${previous:+--orthogonal-gradients-path "$save/grad_$previous.pth"} "$@"
    previous=$dataset
done
