# One word each for the set-up, the main job, the tests and the checks. `make` alone lists them.

PYTHONS ?= python3.11 python3.12 python3.13 python3# first fit wins; the constraints were verified on 3.11
DISK_GB := 6# the environment takes 3.5 GB, pip's temporary files and cache the rest
JOBS ?= 2# processes of the demo and of the tests; each holds torch, about 1 GB

# Several processes share the cores: one thread for each.
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench-model bench-understanding bench-generation bench-study bench-statistics clean
.PHONY: retrain study-design sensitivity cards
.PHONY: demo-multinode bench-runner audit

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.installed ## create .venv with everything in it (about 3 minutes, 3.5 GB); the others do it themselves

demo: .venv/.installed ## score the embedded BLIP3-o on the embedded suite and print the table
	.venv/bin/torchrun --nproc_per_node $(JOBS) -m blip3o_bench run --suite toy --model toy --batch-size 64 --out runs/demo
	.venv/bin/blip3o-bench report runs/demo --html

demo-multinode: .venv/.installed ## two torchrun nodes, one killed, resumed by one process, compared byte by byte (2 minutes)
	.venv/bin/python -m benchmarks.bench.multinode

test: .venv/.installed ## run the tests
	@.venv/bin/python -m pytest -n $(JOBS) || { status=$$?; \
	  if [ $$status -eq 5 ]; then echo "make test: pytest collected no test; is tests/ complete?" >&2; fi; \
	  exit $$status; }

check: .venv/.installed ## lint, formatting, types, import layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

audit: .venv/.installed ## look the pinned packages up in PyPI's advisories (needs the internet)
	@test -x .venv/audit/bin/pip-audit || { .venv/bin/python -m venv .venv/audit && .venv/audit/bin/pip install --quiet pip-audit; }
	.venv/audit/bin/pip-audit -r constraints-py311.txt --no-deps --disable-pip --strict --progress-spinner off

bench-runner: .venv/.installed ## what the runner adds to a model, rows per second, a million samples (some minutes)
	.venv/bin/python -m benchmarks.bench.runner

bench-model: .venv/.installed ## time drawing and training against the plain upstream algorithm (about 8 minutes)
	.venv/bin/python -m model.bench

bench-understanding: .venv/.installed ## our cost per question beside lmms-eval's own evaluator (about 2 minutes)
	.venv/bin/python -m benchmarks.bench.understanding

bench-generation: .venv/.installed ## judging of GenEval, DPG-Bench and FID beside the official way (some minutes)
	.venv/bin/python -m benchmarks.bench.geneval
	.venv/bin/python -m benchmarks.bench.dpg
	.venv/bin/python -m benchmarks.bench.fid

bench-study: .venv/.installed ## time from a click to the next pair with 10 and 30 annotators (some minutes)
	.venv/bin/python -m human_study.bench 1

bench-statistics: .venv/.installed ## the cluster bootstrap beside scipy's, and coverage of the intervals (some minutes)
	.venv/bin/python -m reports.bench
	.venv/bin/python -m reports.bench_compare

retrain: .venv/.installed ## train all toy parts anew and compare them with their cards (hours; goes on where it ended)
	.venv/bin/python -m blip3o_toy retrain --processes $(JOBS)

study-design: .venv/.installed ## the paper's comparison of designs in small (hours; goes on where it ended)
	.venv/bin/python -m blip3o_toy study-design

sensitivity: .venv/.installed ## what the gate notices of deliberate damages (about 12 minutes; HALF=earlier checkpoint)
	.venv/bin/python -m blip3o_toy sensitivity $(if $(HALF),--half $(HALF))

cards: .venv/.installed ## measure the committed weights on held-out examples; writes docs/toy_model.*
	.venv/bin/python -m blip3o_toy cards
	.venv/bin/python -m blip3o_toy contact-sheet

clean: ## remove .venv, caches and runs/demo
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache runs/demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first: its build (CPU, CUDA) is the one pip's own configuration selects, and the rest is resolved around it.
.venv/.installed: pyproject.toml constraints-py311.txt torchvision_guard.pth | .venv/bin/pip
	@echo "set-up 2/3: torch"
	@.venv/bin/python -m pip install --quiet -c constraints-py311.txt torch==2.13.0
	@echo "set-up 3/3: blip3o-bench[all,dev] under constraints-py311.txt (about 3 minutes)"
	@.venv/bin/python -m pip install --quiet -c constraints-py311.txt -e '.[all,dev]'
	@touch $@

# Debian's python3 may lack ensurepip, and a pyenv shim may have no interpreter behind it: each candidate is asked.
.venv/bin/pip:
	@for python in $(PYTHONS); do \
	  if $$python -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; \
	  then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "set-up: no Python 3.11, 3.12 or 3.13 with the venv module among: $(PYTHONS)." \
	    "Install one (Debian: apt-get install python3-venv) or name it: make PYTHONS=/path/to/python" >&2; exit 1; fi; \
	free=$$(df -Pk . | awk 'NR == 2 { print int($$4 / 1048576) }'); \
	if [ "$$free" -lt $(DISK_GB) ]; then \
	  echo "set-up: $$free GB free in $(CURDIR), $(DISK_GB) GB needed" >&2; exit 1; fi; \
	echo "set-up 1/3: .venv with $$($$python --version) ($$python)"; \
	$$python -m venv --clear .venv
