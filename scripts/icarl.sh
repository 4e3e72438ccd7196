#!/bin/sh
# iCaRL over an MTIL order in one process, by recipes/icarl.yaml:
#     sh scripts/icarl.sh [mtil-1|mtil-2] [more flags]
# Published (Transfer / Avg / Last): mtil-1 50.4 / 65.7 / 80.1, mtil-2 50.9 / 56.9 / 71.6; not measured here.
# The published iCaRL configuration cannot be recovered from its code.
set -e
exec sh "$(dirname "$0")/recipe.sh" icarl "$@"
