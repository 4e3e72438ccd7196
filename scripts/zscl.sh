#!/bin/sh
# ZSCL over an MTIL order in one process, by recipes/zscl.yaml:
#     sh scripts/zscl.sh [mtil-1|mtil-2] [more flags]
# Published (Transfer / Avg / Last): mtil-1 68.1 / 75.4 / 83.6, mtil-2 64.2 / 74.5 / 83.4; not measured here.
set -e
exec sh "$(dirname "$0")/recipe.sh" zscl "$@"
