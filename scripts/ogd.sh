#!/bin/sh
# Orthogonal gradient descent (recipes/ogd.yaml) as a chain of runs: each task starts from the weights of the task
# before, stays off the gradients that the tasks before have stored, and adds 10 snapshots of its own.
#     sh scripts/ogd.sh [DATASETS...] [more flags for every task]
# Without datasets: MTIL order I with its settings. SAVE=... is the folder, PYTHON=... is used. The same in one process:
#     sh scripts/recipe.sh ogd mtil-1
# It stops at the first task that fails; the same command then continues there.
# No published figures; not measured here.
set -e
SAVE=${SAVE:-ckpt/ogd} exec sh "$(dirname "$0")/sequence.sh" finetune "$@" --orthogonal-gradients 10
