#!/bin/sh
# Linear evaluation: a linear layer on the frozen image tower of a checkpoint. Not measured here.
#     sh scripts/linear_eval.sh [toy | CHECKPOINT] [more flags]
# On ImageNet, or DATASET=... (folder:PATH with train and val inside); `toy`: the toy weights on an embedded dataset.
# PYTHON=... sets the interpreter.
set -e
dataset=${DATASET:-ImageNet}
start=
case ${1:--} in
    toy) dataset=${DATASET:-toy-shapes}; start="--model toy"; shift ;;
    -*) ;;
    *) start="--load $1"; shift ;;
esac
exec "${PYTHON:-python}" -m src.main --eval-only --linear-eval "$dataset" $start "$@"
