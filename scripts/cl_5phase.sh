#!/bin/sh
# Plain contrastive training on a stream of image-text pairs in five phases; see phases.sh. Not measured here.
#     sh scripts/cl_5phase.sh [toy | DATASET] [more flags]
set -e
exec sh "$(dirname "$0")/phases.sh" finetune "$@"
