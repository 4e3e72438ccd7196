#!/bin/bash
# Training on a SLURM cluster, or by hand on any machine (`bash train.sh ...`). Arguments are those of src.main:
#     sbatch train.sh --method finetune --train-dataset DTD --iterations 1000 --lr 1e-5 --save ckpt/dtd_ft
# Without arguments it trains the embedded sequence. Adapt the resources below to your cluster, or override them:
#     sbatch --gres=gpu:4 --time=2:00:00 train.sh ...     # one process per GPU (PROCESSES=N: N per node)
#
# Several runs, one per task of an array. {} is the task's index or, if EACH is given, that word of it, from 0:
#     sbatch --array=1-3 train.sh --dataset-order toy --seed {} --save ckpt/seed-{}
#     EACH="DTD MNIST" sbatch --array=0-1 train.sh --train-dataset {} --iterations 1000 --lr 1e-5 --save ckpt/{}
#
# A study (docs/studies.md): the tasks of an array, however many, share its cells.
#     sbatch --array=1-4 train.sh --study studies/toy.yaml --save ckpt/study
#
# The same command resumes an interrupted run. Two minutes before the time limit, and when preempted, a job saves and
# requeues itself; `scancel` ends it for good. All its attempts write to one log in logs/.
# The exit status is the training's; 75: interrupted, rerun the same command.
#SBATCH --job-name=clip-continual
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --gres=gpu:1
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=logs/%x-%j.out
set -e
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")}"
export INTERRUPTED=75  # EX_TEMPFAIL, the status of src.main

refuse() {
    echo "train.sh: $1" >&2
    exit 2
}

# -- on every node -----------------------------------------------------------------------------------------------------

# Run one process and write its status to a file: torchrun turns every failure into 1, and srun reports the nodes'
# largest. An interruption must not fail, or torchrun would end the other processes before they have saved.
process() {
    trap : USR1 TERM INT  # the training ends by itself, and this shell waits for its status
    local status=0
    python -m src.main "$@" || status=$?
    case $status in 138 | 143) status=$INTERRUPTED ;; esac  # USR1 or TERM during startup: nothing is lost
    : > "$STATUSES/$status"
    [ "$status" -eq "$INTERRUPTED" ] || return "$status"
}

# Run the processes of one node. SLURM's signals reach all of them, also shells and torchrun: only the training acts.
node() {
    trap : USR1 TERM INT
    local nodes=${SLURM_JOB_NUM_NODES:-1} processes=${PROCESSES:-${SLURM_GPUS_ON_NODE:-}}
    local meeting=(--standalone)
    if [ -z "$processes" ] && [ -z "${SLURM_JOB_ID:-}" ]; then
        processes=$(python -c "import torch; print(torch.cuda.device_count())")
    fi
    if [ "${processes:-0}" -eq 0 ]; then processes=1; fi
    if [ "$nodes" -eq 1 ] && [ "$processes" -eq 1 ]; then
        process "$@"
        return
    fi
    if [ "$nodes" -gt 1 ]; then
        meeting=(--nnodes "$nodes" --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"
                 --rdzv-endpoint "$FIRST_NODE:$((20000 + SLURM_JOB_ID % 10000))")
    fi
    trap '' USR1
    python -m torch.distributed.run "${meeting[@]}" --nproc-per-node "$processes" \
        --no-python bash -c "$(declare -f process); process \"\$@\"" process "$@"
}

# -- on the first node -------------------------------------------------------------------------------------------------

# Print what {} stands for in this task of an array.
task_value() {
    local each
    read -r -d '' -a each <<< "${EACH:-}" || true  # read fails at the end of the text
    if [ "${#each[@]}" -eq 0 ]; then
        echo "$SLURM_ARRAY_TASK_ID"
    elif [ "$SLURM_ARRAY_TASK_ID" -lt "${#each[@]}" ]; then
        echo "${each[SLURM_ARRAY_TASK_ID]}"
    else
        refuse "EACH has ${#each[@]} words, counted from 0, so no word $SLURM_ARRAY_TASK_ID; give another --array"
    fi
}

launch() {
    if [ -z "${SLURM_JOB_ID:-}" ]; then
        node "$@"
        return
    fi
    FIRST_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    export FIRST_NODE
    exec srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --export=ALL \
        ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} --kill-on-bad-exit=1 \
        bash -c "$(declare -f process node); node \"\$@\"" node "$@"
}

# Print the descendants of a process, from one listing of all processes.
descendants() {
    ps -e -o pid= -o ppid= | awk -v root="$1" '
        { parent[$1] = $2 }
        END { for (pid in parent) for (up = parent[pid]; up in parent; up = parent[up]) if (up == root) print pid }'
}

# Signal the training. srun passes USR1 to all processes of all nodes; on TERM it would end them.
pass_on() {
    signalled=yes
    if [ -n "${SLURM_JOB_ID:-}" ]; then
        kill -USR1 "$training" 2> /dev/null || true  # it may have ended meanwhile
    else
        kill -USR1 $(descendants "$training") 2> /dev/null || true
    fi
}

# Print the training's status from those of its processes: a failure if any, else an interruption, else the launcher's.
# 134: NCCL has aborted a process because another one had left it, or did not answer. What the other one says counts.
outcome() {
    local file
    for file in "$STATUSES"/[0-9]*; do
        case ${file##*/} in
            0 | "$INTERRUPTED" | 134 | "[0-9]*") ;;
            *) echo "${file##*/}"; return ;;
        esac
    done
    if [ -e "$STATUSES/$INTERRUPTED" ]; then echo "$INTERRUPTED"
    elif [ -e "$STATUSES/134" ]; then echo 134
    else echo "$1"; fi
}

# Requeue the job, unless SLURM is already removing it from its nodes, to requeue it or to end it.
requeue() {
    local job=$SLURM_JOB_ID
    if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi  # not the whole array
    case $(scontrol --oneliner show job "$job") in
        *" JobState=RUNNING "*" BatchFlag=1 "*) scontrol requeue "$job" ;;
    esac
}

if [ -f .venv/bin/activate ]; then . .venv/bin/activate; fi
if [ $# -eq 0 ]; then set -- --method ZSCL --dataset-order toy --save ckpt/toy_zscl; fi
study=  # sbatch exports the environment, which may define it
case " $* " in *" --study "* | *" --study="*) study=study; export PROCESSES=1 ;; esac  # whose cells are processes
case " $* " in *" --reproduce "* | *" --reproduce="*) export PROCESSES=1 ;; esac  # whose runs are processes
case "${SLURM_ARRAY_TASK_ID:+array}${study:-}: $*" in
    arraystudy:*{}*) refuse "the tasks of an array share the cells of a study; leave {} out" ;;
    arraystudy:*) ;;
    array:*{}*) value=$(task_value) ; set -- "${@//\{\}/"$value"}" ;;
    array:*) refuse "all tasks of the array would be the same run; put {} where they differ, --save included" ;;
    :*{}* | study:*{}*) refuse "{} is the index of an array's task: sbatch --array=1-3 train.sh ..." ;;
esac
case " $* " in
    *" --resume "*) ;;
    *" --save "* | *" --save="*) set -- "$@" --resume ;;  # without it nothing is kept
esac
STATUSES=$(mktemp -d "$PWD/logs/.statuses-XXXXXX")
export STATUSES
trap 'rm -rf "$STATUSES"' EXIT

launch "$@" &
training=$!
trap pass_on USR1 TERM INT HUP
signalled=yes
while [ -n "$signalled" ]; do  # a signal ends `wait`, not the training
    signalled=
    status=0
    wait "$training" || status=$?
done
status=$(outcome "$status")
if [ "$status" -eq 134 ]; then
    echo "train.sh: a process was aborted (134), as NCCL does when another one is killed or hangs; the same command" \
         "continues from the last resume point" >&2
    status=1
fi
if [ "$status" -eq "$INTERRUPTED" ]; then
    echo "train.sh: interrupted; the same command continues" >&2
    if [ -n "${SLURM_JOB_ID:-}" ]; then requeue || echo "train.sh: the job could not be requeued" >&2; fi
fi
exit "$status"
