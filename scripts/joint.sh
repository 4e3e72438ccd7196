#!/bin/sh
# All image-text pairs at once, from scratch: the first model of a continual run, and its upper bound. Not measured here.
#     sh scripts/joint.sh [toy | DATASETS such as coco,flickr30k] [more flags]
# The architecture is the ResNet of Mod-X (MODEL=ViT for its ViT); `toy` trains the embedded pairs from the toy weights.
# SAVE=... sets the folder, PYTHON=... the interpreter. Defaults of pairs: 35 epochs, batch 280, rate 5e-4.
set -e
datasets=coco,flickr30k
model="--model-name ${MODEL:-RN} --init scratch"
case ${1:--} in
    toy) datasets=toy-pairs-new,toy-pairs-dull,toy-pairs-night; model="--model toy"; shift ;;
    -*) ;;
    *) datasets=$1; shift ;;
esac
exec "${PYTHON:-python}" -m src.main --joint --train-dataset "$datasets" $model --save "${SAVE:-ckpt/joint}" "$@"
