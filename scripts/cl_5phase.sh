#!/bin/sh
# Plain contrastive training on a stream of image-text pairs in five phases. Not measured here.
#     sh scripts/cl_5phase.sh [toy | DATASET] [more flags]
# Without a name: flickr30k, from LOAD=... (the joint model of coco, say); `toy`: an embedded set from the toy weights.
# SAVE=... is the folder, PYTHON=... is used.
set -e
dataset=flickr30k
start=${LOAD:+--load $LOAD}
case ${1:--} in
    toy) dataset=toy-pairs-new; start="--model toy"; shift ;;
    -*) ;;
    *) dataset=$1; shift ;;
esac
exec "${PYTHON:-python}" -m src.main --method finetune --train-dataset "$dataset" --num-phases 5 $start \
    --save "${SAVE:-ckpt/cl_5phase}" "$@"
