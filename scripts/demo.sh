#!/bin/sh
# Run zero-shot, finetune, lwf and ZSCL over the embedded sequence, then compare them in one table.
#     sh scripts/demo.sh [PYTHON]
set -e
python=${1:-python}
out=ckpt/demo
"$python" -m src.main --eval-only --dataset-order toy --save $out/zero-shot
for method in finetune lwf ZSCL; do
    "$python" -m src.main --method $method --dataset-order toy --save $out/$method --overwrite
done
echo "The embedded benchmark, top-1 in percent (Transfer: tasks not yet trained; Last: after the last task):"
echo
"$python" -m src.main --report $out/finetune,$out/lwf,$out/ZSCL
echo
echo "Next, on real data (downloads DTD and CLIP's weights on first use):"
echo "    $python -m src.main --method finetune --train-mode whole --train-dataset DTD --iterations 1000 --lr 1e-5 --save ckpt/dtd_ft"
