# make help lists the targets. Without an active environment that has fulgurite, a .venv is made first.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BASE_PYTHON ?= python3
# An environment that already has the package (an activated one, or CI's) is used as it is; else .venv is made.
PYTHON ?= $(shell if [ -n "$${VIRTUAL_ENV:-}" ] && "$$VIRTUAL_ENV/bin/python" -c 'import fulgurite, pytest, torch' 2>/dev/null; \
	then echo "$$VIRTUAL_ENV/bin/python"; else echo .venv/bin/python; fi)
EXTRAS ?= dev,peft,real-models,openai,math,gguf,quantize
DEMO ?= runs/quickstart
# Two workers of one thread each: most tests are too small for two threads. PYTEST_ARGS come last and win ("-n 0 -x tests/data").
PYTEST := -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)
test floor: export OMP_NUM_THREADS ?= 1
STAMP := $(if $(filter .venv/bin/python,$(PYTHON)),.venv/.installed,)

.PHONY: help demo test floor lint types bench science docs

help: ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.installed: setup.py constraints.txt
	$(BASE_PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: $(STAMP) ## train SoRA on the embedded playground, test it, export it for PEFT (under 3 minutes on 2 cores)
	rm -rf $(DEMO)
	$(PYTHON) -m fulgurite fit --config configs/quickstart.yaml --trainer.default_root_dir $(DEMO)
	$(PYTHON) -m fulgurite test --config configs/quickstart.yaml --trainer.default_root_dir $(DEMO) --ckpt_path last
	$(PYTHON) -m fulgurite export --ckpt_path $(DEMO)/checkpoints/last.ckpt --out $(DEMO)/peft
	@echo "picture: $(DEMO)/sparsity.png   adapter: $(DEMO)/peft"

test: $(STAMP) ## the test suite on two workers; PYTEST_ARGS="-m 'not slow'" for the quick part
	$(PYTHON) $(PYTEST)

floor: ## the test suite on the oldest supported packages (constraints-floor.txt), in .venv-floor
	$(BASE_PYTHON) -m venv .venv-floor
	.venv-floor/bin/python -m pip install --quiet -c constraints-floor.txt -e '.[dev,peers,real-models]'
	.venv-floor/bin/python $(PYTEST)

lint: $(STAMP) ## ruff: rules and format
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types: $(STAMP) ## mypy
	$(PYTHON) -m mypy

bench: $(STAMP) ## all benchmarks; results are printed, --json FILE keeps them
	$(PYTHON) -m benchmarks.run

science: $(STAMP) ## the runs behind the tables of README and docs (needs the real data folder)
	$(PYTHON) -m benchmarks.science

docs: $(STAMP) ## the site, into site/
	$(PYTHON) -m pip install --quiet -c constraints.txt -e '.[docs]'
	$(PYTHON) -m mkdocs build --strict
