#!/bin/sh
# LwF over an MTIL order in one process, by recipes/lwf.yaml:
#     sh scripts/lwf.sh [mtil-1|mtil-2] [more flags]
# Published (Transfer / Avg / Last): mtil-1 56.9 / 64.7 / 74.6, mtil-2 53.2 / 62.2 / 71.9; not measured here.
set -e
exec sh "$(dirname "$0")/recipe.sh" lwf "$@"
