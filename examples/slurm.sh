#!/bin/bash
# A study on a SLURM cluster: one job array whose tasks share the cells, and the tables when all have ended.
#
#     bash examples/slurm.sh                                 # 4 jobs for studies/toy.yaml, on embedded data
#     JOBS=16 DATA=/scratch/data FETCH=mtil-1 bash examples/slurm.sh studies/mtil.yaml ckpt/mtil
#
# Run it on the login node, from anywhere. Data are fetched here, because compute nodes often reach no network; while
# something is left to fetch by hand, nothing is submitted. Resources, time and the partition are in the head of
# train.sh, or go into SBATCH_... variables. Submitted again, the same command continues what is unfinished.
set -e
cd "$(dirname "$0")/.."
study=${1:-studies/toy.yaml}
save=${2:-ckpt/study}
data=${DATA:-data}

if [ -n "${FETCH:-}" ]; then
    python -m src.main --fetch "$FETCH" --data-location "$data"
fi
job=$(sbatch --parsable --array="1-${JOBS:-4}" train.sh --study "$study" --data-location "$data" --save "$save")
echo "submitted ${job%%;*}; its state: python -m src.main --study $study --save $save --status"
