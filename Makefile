# make demo: the whole main job on the embedded benchmark.   make test: the tests.   make help: the rest.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: help setup demo test test-all test-portable test-slurm test-browser test-latex lint bench bench-full \
        bench-gpu bench-one-gpu bench-table bench-curves clean

help:            ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */|/' | awk -F'|' '{printf "make %-13s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## make .venv and install requirements.txt into it

demo: setup      ## zero-shot, finetune, lwf and ZSCL over the embedded sequence, and one table that compares them
	sh scripts/demo.sh $(RUN)

test: setup      ## the tests, without the slow ones
	$(RUN) -m pytest -q -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-all: setup  ## every test
	$(RUN) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-portable: setup ## the tests as other machines would compute, and with other versions; ONLY="avx2 sums" picks some
	$(RUN) tests/tools/portable.py $(ONLY)

test-slurm: setup ## train.sh as jobs of a SLURM of one node, which is installed where root and apt-get allow it
	$(RUN) -m pytest -q -rs tests/slurm

test-browser: setup ## the page of a run in a headless Chromium, which is installed where root and apt-get allow it
	$(RUN) -m pytest -q -rs tests/browser

test-latex: setup ## every table by a real LaTeX, which is installed where root and apt-get allow it
	$(RUN) -m pytest -q -rs tests/latex

lint: setup      ## ruff
	$(RUN) -m ruff check .

bench: setup     ## every benchmark at tiny sizes on the CPU, in under 8 minutes
	$(RUN) -m benchmarks.run tiny --again $(if $(REMARK),--remark "$(REMARK)")

bench-full: setup ## benchmarks at ViT-B/16 size, one process a row, those without a result; ROW="zscl text" picks some
	$(RUN) -m benchmarks.run full --apart $(ROW) $(if $(REMARK),--remark "$(REMARK)")

bench-gpu:       ## what a GPU is measured by, one file in under 8 minutes; needs a python with torch: PYTHON=...
	$(PYTHON) -m benchmarks.gpu --out benchmarks/results/gpu.json

bench-one-gpu:   ## more of one H100 or H200, in under 9 minutes: ckpt/one_gpu/one_gpu.json; UNTIL=seconds PARTS=a,b
	$(PYTHON) -m benchmarks.one_gpu --out ckpt/one_gpu $(if $(UNTIL),--until $(UNTIL)) $(if $(PARTS),--parts $(PARTS))

bench-table: setup ## results of the benchmarks into docs/speed.md and benchmarks/README.md
	$(RUN) -m benchmarks.table --write

bench-curves: setup ## how costs grow with classes, sentences, tasks, datasets, processes: results/curves.json and .png
	$(RUN) -m benchmarks.curves $(if $(REMARK),--remark "$(REMARK)")

clean:           ## remove the virtual environments and the demo's output
	rm -rf $(VENV) .venv-lowest .venv-newest ckpt/demo

# uv installs in seconds what takes pip minutes; where it cannot be had, pip does the same. Like pip, it
# compiles what it installs: torch's sources alone take 6 s of every process that cannot keep their bytecode.
$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet uv && $(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(RUN) -r requirements.txt \
		|| $(RUN) -m pip install --quiet -r requirements.txt
	touch $@
