#!/bin/sh
# A stream of image-text pairs in five phases by one method, finetune (plain contrastive training) or modx. Not measured here.
#     sh scripts/phases.sh METHOD [toy | DATASET] [more flags]
# Without a name: flickr30k, from LOAD=... (e.g. the joint model of coco); `toy`: an embedded set from the toy weights.
# SAVE=... sets the folder, PYTHON=... the interpreter.
set -e
method=${1:?give a method: sh scripts/phases.sh finetune|modx [toy | DATASET] [more flags]}
shift
dataset=flickr30k
start=${LOAD:+--load $LOAD}
case ${1:--} in
    toy) dataset=toy-pairs-new; start="--model toy"; shift ;;
    -*) ;;
    *) dataset=$1; shift ;;
esac
exec "${PYTHON:-python}" -m src.main --method "$method" --train-dataset "$dataset" --num-phases 5 $start \
    --save "${SAVE:-ckpt/${method}_5phase}" "$@"
