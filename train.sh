#!/bin/bash
# One run on a SLURM cluster:
#     sbatch train.sh --method finetune --train-dataset DTD --iterations 1000 --lr 1e-5 --save ckpt/dtd_ft
# Without arguments it trains the embedded sequence. Adapt the resources to your cluster.
#SBATCH --job-name=clip-continual
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --gres=gpu:1
#SBATCH --time=12:00:00
#SBATCH --output=logs/%x-%j.out
set -e
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")}"
if [ -f .venv/bin/activate ]; then . .venv/bin/activate; fi
if [ $# -eq 0 ]; then set -- --method ZSCL --dataset-order toy --save ckpt/toy_zscl; fi
srun python -m src.main "$@"
