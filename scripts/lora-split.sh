#!/bin/sh
# Shared LoRA with one pair for each of q, k, v and o over an MTIL order in one process, by recipes/lora-split.yaml:
#     sh scripts/lora-split.sh [mtil-1|mtil-2] [more flags]
# No published figures; not measured here.
set -e
exec sh "$(dirname "$0")/recipe.sh" lora-split "$@"
