# make demo: the whole main job on the embedded benchmark.   make test: the tests.   make help: the rest.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: help setup demo test test-all lint clean

help:            ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */|/' | awk -F'|' '{printf "make %-10s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## make .venv and install requirements.txt into it

demo: setup      ## zero-shot, finetune, lwf and ZSCL over the embedded sequence, and one table that compares them
	sh scripts/demo.sh $(RUN)

test: setup      ## the tests, without the slow ones
	$(RUN) -m pytest -q -m "not slow"

test-all: setup  ## every test
	$(RUN) -m pytest -q

lint: setup      ## ruff
	$(RUN) -m ruff check .

clean:           ## remove .venv and the demo's output
	rm -rf $(VENV) ckpt/demo

# uv installs in seconds what takes pip minutes; where it cannot be had, pip does the same.
$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet uv && $(VENV)/bin/uv pip install --quiet --python $(RUN) -r requirements.txt \
		|| $(RUN) -m pip install --quiet -r requirements.txt
	touch $@
