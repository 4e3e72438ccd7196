#!/bin/sh
# WiSE-FT over an MTIL order in one process, by recipes/wise-ft.yaml:
#     sh scripts/wise-ft.sh [mtil-1|mtil-2] [more flags]
# Published (Transfer / Avg / Last): mtil-1 52.3 / 60.7 / 77.7, mtil-2 51.0 / 61.5 / 72.2; not measured here.
set -e
exec sh "$(dirname "$0")/recipe.sh" wise-ft "$@"
