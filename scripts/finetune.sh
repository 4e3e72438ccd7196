#!/bin/sh
# Plain fine-tuning over an MTIL order in one process, by recipes/finetune.yaml:
#     sh scripts/finetune.sh [mtil-1|mtil-2] [more flags]
# Published (Transfer / Avg / Last): mtil-1 44.6 / 55.9 / 77.3, mtil-2 46.6 / 56.2 / 67.4; not measured here.
set -e
exec sh "$(dirname "$0")/recipe.sh" finetune "$@"
