#!/bin/sh
# LoRA with one pair of factors for all layers of a kind over an MTIL order in one process, by recipes/lora-shared.yaml:
#     sh scripts/lora-shared.sh [mtil-1|mtil-2] [more flags]
# No published figures; not measured here.
set -e
exec sh "$(dirname "$0")/recipe.sh" lora-shared "$@"
