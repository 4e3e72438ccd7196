#!/bin/sh
# One task of the loops sequence.sh and ogd.sh, which start it:
#     sh scripts/task.sh FOLDER DATASET START FLAGS...     START: the checkpoint to start from, empty for the first task
# An interrupted task continues. A finished one is left alone: where the same command has ended well, which
# FOLDER/command_DATASET.txt tells, its checkpoint is there, and the one it starts from is not newer. Not measured here.
set -e
folder=$1 dataset=$2 start=$3
shift 3
told=$folder/command_$dataset.txt checkpoint=$folder/$dataset.pth
command=$(printf '%s\n' "$@" "$start")
if [ -f "$checkpoint" ] && [ -f "$told" ] && [ "$(cat "$told")" = "$command" ] && ! [ "$start" -nt "$checkpoint" ]; then
    echo "$dataset: finished before by the same command"
    exit
fi
rm -f "$told"
"${PYTHON:-python}" -m src.main --train-dataset "$dataset" --save "$folder" ${start:+--load "$start"} --resume "$@"
if [ -f "$checkpoint" ]; then printf '%s\n' "$command" > "$told"; fi  # not after a dry run
