"""Measure a machine with one GPU, an H100 or H200, in a few minutes:

    python -m benchmarks.one_gpu --out FOLDER                       # every part, in the order of ``table.PARTS``
    python -m benchmarks.one_gpu --out FOLDER --parts env,rates --until 120
    python -m benchmarks.one_gpu --out FOLDER --tiny --device cpu   # a trial without a GPU; its figures mean nothing

FOLDER/one_gpu.json is rewritten after each part. A part that fails, exceeds its budget, hangs or breaks the
device does not affect the figures of the others; missing figures have the reason under "error" or
"skipped". Parts named ``cli_*`` start ``python -m src.main`` and need the packages of the command line; the
others need torch, and ``nvjpeg`` and ``evaluation`` also torchvision, numpy and Pillow.
"""
