#!/bin/sh
# Mod-X on a stream of image-text pairs in five phases; see phases.sh. Not measured here.
#     sh scripts/modx_5phase.sh [toy | DATASET] [more flags]
set -e
exec sh "$(dirname "$0")/phases.sh" modx "$@"
