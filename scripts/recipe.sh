#!/bin/sh
# One recipe over a whole sequence in one process; not measured here on MTIL.
#     sh scripts/recipe.sh RECIPE [mtil-1|mtil-2|toy|A,B,C] [more flags]
# A RECIPE is a name in recipes/ or your own YAML file. Later flags win, also --save. PYTHON=... sets the interpreter.
set -e
recipe=${1:?give a recipe: sh scripts/recipe.sh RECIPE [ORDER] [more flags]}
shift
case ${1:--} in
    -*) order=mtil-1 ;;
    *) order=$1; shift ;;
esac
exec "${PYTHON:-python}" -m src.main --recipe "$recipe" --dataset-order "$order" \
    --save "ckpt/${order}_$(basename "$recipe" .yaml)" "$@"
