#!/bin/sh
# Orthogonal gradient descent (recipes/ogd.yaml) as a chain of runs: each task starts from the previous task's
# weights, projects off the gradients that earlier tasks stored, and adds 10 new snapshots.
#     sh scripts/ogd.sh [DATASETS...] [more flags for every task]
# Without datasets: MTIL order I with its settings. SAVE=... sets the folder, PYTHON=... the interpreter. In one process:
#     sh scripts/recipe.sh ogd mtil-1
# It stops at the first task that fails; the same command resumes there.
# No published figures; not measured here.
set -e
SAVE=${SAVE:-ckpt/ogd} exec sh "$(dirname "$0")/sequence.sh" finetune "$@" --orthogonal-gradients 10
