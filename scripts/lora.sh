#!/bin/sh
# Fine-tuning of low-rank adapters (LoRA) over an MTIL order in one process, by recipes/lora.yaml:
#     sh scripts/lora.sh [mtil-1|mtil-2] [more flags]
# No published figures; not measured here.
set -e
exec sh "$(dirname "$0")/recipe.sh" lora "$@"
