#!/bin/sh
# Fine-tuning with the weight ensemble (WE) over an MTIL order in one process, by recipes/we.yaml:
#     sh scripts/we.sh [mtil-1|mtil-2] [more flags]
# No published figures; not measured here.
set -e
exec sh "$(dirname "$0")/recipe.sh" we "$@"
