#!/bin/sh
# One task after the other, each a run of its own that starts from the weights of the task before and trains its full
# number of steps; after each all are scored, so that the csv files in the one folder hold the whole matrix.
#     sh scripts/sequence.sh METHOD [DATASETS...] [more flags for every task]
#     sh scripts/sequence.sh ZSCL --ref-dataset ImageNet --ref-sentences conceptual_captions
#     sh scripts/sequence.sh lwf toy-digits toy-shapes --model toy --iterations 100
# Without datasets: MTIL order I with its settings. SAVE=... is the folder, PYTHON=... is used. Not measured here.
# It stops at the first task that fails; the same command then continues there.
set -e
method=${1:?give a method: sh scripts/sequence.sh METHOD [DATASETS...] [more flags]}
shift
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
save=${SAVE:-ckpt/sequence_$method}
all=$(echo $datasets | tr ' ' ',')
previous=
for dataset in $datasets; do
    case $dataset in
        Aircraft|MNIST) lr=5e-5 ;;
        *) lr=1e-5 ;;
    esac
    sh "$(dirname "$0")/task.sh" "$save" "$dataset" "${previous:+$save/$previous.pth}" --method "$method" \
        --train-mode whole --iterations 1000 --batch-size 64 --lr $lr --ls 0.2 --warmup-length 100 --precision fp32 \
        --eval-datasets "$all" "$@"
    previous=$dataset
done
