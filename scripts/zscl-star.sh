#!/bin/sh
# ZSCL* (ZSCL without the pull to the weights at load) over an MTIL order in one process, by recipes/zscl-star.yaml:
#     sh scripts/zscl-star.sh [mtil-1|mtil-2] [more flags]
# Published (Transfer / Avg / Last): mtil-1 62.2 / 72.6 / 84.5, mtil-2 59.8 / 71.8 / 83.3; not measured here.
set -e
exec sh "$(dirname "$0")/recipe.sh" zscl-star "$@"
