#!/bin/sh
# A sequence as separate runs, one per task, each starting from the previous task's weights and training its full number
# of steps; after each task all are scored, so that the csv files in the one folder hold the whole matrix.
#     sh scripts/sequence.sh METHOD [DATASETS...] [more flags for every task]
#     sh scripts/sequence.sh ZSCL --ref-dataset ImageNet --ref-sentences conceptual_captions
#     sh scripts/sequence.sh lwf toy-digits toy-shapes --model toy --iterations 100
# Without datasets: MTIL order I with its settings. SAVE=... sets the folder, PYTHON=... the interpreter.
# Not measured here. With --orthogonal-gradients each task projects off what the previous task stored.
# It stops at the first task that fails; the same command resumes there. --overwrite starts again.
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
project='' resume=--resume
for word in "$@"; do
    case $word in
        --save | --save=* | --load | --load=*)
            echo "the loop sets --save and --load; give the folder as SAVE=FOLDER" >&2
            exit 2 ;;
        --orthogonal-gradients | --orthogonal-gradients=*) project=yes ;;
        --overwrite) resume= ;;
    esac
done
save=${SAVE:-ckpt/sequence_$method}
all=$(echo $datasets | tr ' ' ',')
previous=
for dataset in $datasets; do
    case $dataset in
        Aircraft|MNIST) lr=5e-5 ;;
        *) lr=1e-5 ;;
    esac
    "${PYTHON:-python}" -m src.main --train-dataset "$dataset" --save "$save" \
        ${previous:+--load "$save/$previous.pth"} $resume --method "$method" --train-mode whole --iterations 1000 \
        --batch-size 64 --lr $lr --ls 0.2 --warmup-length 100 --precision fp32 --eval-datasets "$all" \
        ${project:+${previous:+--orthogonal-gradients-path "$save/grad_$previous.pth"}} "$@"
    previous=$dataset
done
