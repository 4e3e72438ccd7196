#!/bin/sh
# LwF with random texts (LwF-VR) over an MTIL order in one process, by recipes/lwf-vr.yaml:
#     sh scripts/lwf-vr.sh [mtil-1|mtil-2] [more flags]
# Published (Transfer / Avg / Last): mtil-1 57.2 / 65.1 / 76.6, mtil-2 53.1 / 60.6 / 68.3; not measured here.
set -e
exec sh "$(dirname "$0")/recipe.sh" lwf-vr "$@"
