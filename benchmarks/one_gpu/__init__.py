"""What to measure on a machine with one GPU, an H100 or H200, in a few minutes:

    python -m benchmarks.one_gpu --out FOLDER                       # every part, in the order of ``table.PARTS``
    python -m benchmarks.one_gpu --out FOLDER --parts env,rates --until 120
    python -m benchmarks.one_gpu --out FOLDER --tiny --device cpu   # a try without a GPU; its figures mean nothing

FOLDER/one_gpu.json is rewritten after each part. A part that fails, runs past its budget, hangs or breaks the device
leaves the figures of the others; figures that were not measured are absent, with the reason under "error" or "skipped".
Parts named ``cli_*`` start ``python -m src.main`` and need the packages of the command line; the others need torch, and
``nvjpeg`` and ``evaluation`` torchvision, numpy and Pillow.
"""
