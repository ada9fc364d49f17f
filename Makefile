# perfkit: everything a person or CI runs. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO_RUN ?= runs/demo
# Four ranks on CPUs or on four GPUs; fewer GPUs take the layout they have room for.
GPUS := $(shell nvidia-smi -L 2>/dev/null | grep -c '^GPU')
DEMO_LAYOUT ?= $(if $(filter 1,$(GPUS)),--tp 1 --pp 1,$(if $(filter 2 3,$(GPUS)),--tp 2 --pp 1,--tp 2 --pp 2))

.PHONY: help demo test test-gpu check format readme paper bench clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# A torch that is there already (cluster, container) is used and kept, whatever its version; otherwise
# torch comes first and pinned, so that no other package chooses a build for us.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "perfkit needs Python 3.11 or newer"'
	@if $(PYTHON) -c 'import torch' 2>/dev/null; then shared=--system-site-packages; fi; \
		test -x $(BIN)/python || $(PYTHON) -m venv $$shared $(VENV)
	@if $(BIN)/python -c 'import torch' 2>/dev/null; then \
		grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt; \
	else \
		cp constraints.txt $(VENV)/constraints.txt; \
		$(PIP) install --quiet -c $(VENV)/constraints.txt torch; \
	fi
	DS_BUILD_OPS=0 $(PIP) install --quiet -c $(VENV)/constraints.txt -e '.[run,quantize,calibrate,demo,report,cluster,dev]'
	@touch $@

demo: $(VENV)/.installed  ## Run, analyze, predict, compare and report SmolLM2-135M on local ranks
	$(BIN)/perfkit fetch smollm2-135m-instruct
	$(BIN)/perfkit calibrate $(DEMO_LAYOUT)
	$(BIN)/perfkit run smollm2-135m-instruct $(DEMO_LAYOUT) --batch 4 \
		--prompt-tokens 256 --new-tokens 32 --out $(DEMO_RUN) --force
	$(BIN)/perfkit analyze $(DEMO_RUN)
	$(BIN)/perfkit compare $(DEMO_RUN)
	$(BIN)/perfkit report $(DEMO_RUN) -o $(DEMO_RUN)/report.html --force
	@echo "The report is $(DEMO_RUN)/report.html: open it in a browser."
	@echo "Next: $(BIN)/perfkit predict llama-3.3-70b --gpu h200-sxm --tp 2 --pp 1,2,3 --batch 1,8,32"

test: $(VENV)/.installed  ## Pass the tests (stages the demo model first)
	$(BIN)/perfkit fetch smollm2-135m-instruct
	$(BIN)/python -m pytest

check: $(VENV)/.installed  ## Format, lint and types, as CI checks them
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed  ## Rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-gpu: $(VENV)/.installed  ## The tests that need GPUs, and the engine's tokens on as many as there are
	$(BIN)/python -m pytest tests/gpu tests/engine

# README has what the command prints between two comments; a test compares them.
PRINTED := <!-- perfkit report traces
readme: $(VENV)/.installed  ## Redraw README's table and picture from traces/
	$(BIN)/perfkit report traces/*/ -o traces/overview.svg --force
	$(BIN)/perfkit report traces/*/ --format md > $(VENV)/printed.md
	sed -e '/^$(PRINTED)/r $(VENV)/printed.md' -e '/^$(PRINTED)/,/^<!-- end/{//!d;}' README.md > $(VENV)/README.md
	cp $(VENV)/README.md README.md

# The time of the last commit, so that the same commit gives the same bytes.
DOCUMENTS := runs/documents
RECORDED := traces traces/scored --frozen traces
paper: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
paper: $(VENV)/.installed  ## Build perfkit's own paper and a sample proposal from traces/
	$(BIN)/perfkit paper $(RECORDED) --text analysis/paper/perfkit -o $(DOCUMENTS)/paper.pdf --force
	$(BIN)/perfkit proposal $(RECORDED) --system leonardo --text analysis/proposal/leonardo \
		-o $(DOCUMENTS)/proposal.pdf --force
	@echo "The documents are $(DOCUMENTS)/paper.pdf and proposal.pdf."

bench: $(VENV)/.installed  ## Speed and memory as ratios, each measured in one run
	$(BIN)/perfkit fetch smollm2-135m-instruct
	$(BIN)/python tests/benchmarks/generate_ratio.py smollm2-135m-instruct
	$(BIN)/python tests/benchmarks/nsys_speed.py
	$(BIN)/python tests/benchmarks/kineto_speed.py
	$(BIN)/python tests/benchmarks/many_ranks.py
	$(BIN)/python tests/benchmarks/report_size.py
	$(BIN)/python tests/benchmarks/predict_speed.py
	$(BIN)/python tests/benchmarks/other_predictors.py $(if $(OTHER),--other $(OTHER))

clean:  ## Remove the virtual environment and the runs
	rm -rf $(VENV) runs
