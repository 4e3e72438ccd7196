#!/bin/sh
# Fine-tuning with a pull to the weights at load (WC) over an MTIL order in one process, by recipes/wc.yaml:
#     sh scripts/wc.sh [mtil-1|mtil-2] [more flags]
# No published figures; not measured here.
set -e
exec sh "$(dirname "$0")/recipe.sh" wc "$@"
