#!/bin/sh
# KeepLoRA+ over an MTIL order in one process, by recipes/keeplora-plus.yaml:
#     sh scripts/keeplora-plus.sh [mtil-1|mtil-2] [more flags]
# Published: a Transfer of 69.9 on mtil-1, as a third party copies it; not measured here.
set -e
exec sh "$(dirname "$0")/recipe.sh" keeplora-plus "$@"
