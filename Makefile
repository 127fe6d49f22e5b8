# What a user and a contributor run. PYTHON is the interpreter, VENV where its packages go.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Where to train: cpu, cuda (NVIDIA GPUs) or tpu. The JAX for it is installed, and JAX must find one.
DEVICE ?= cpu
EXTRA_cpu := train
EXTRA_cuda := train,cuda
EXTRA_tpu := train,tpu
ifndef EXTRA_$(DEVICE)
$(error DEVICE=$(DEVICE) must be one of cpu, cuda, tpu)
endif
TRAIN := JAX_PLATFORMS=$(DEVICE) $(BIN)/python -m train

OPTIMIZER ?= grassjump
STEPS ?= 300
RUN_DIR ?= runs/tiny-$(OPTIMIZER)-$(shell date +%Y%m%d-%H%M%S)
COMPARE_DIR ?= runs/compare
COMPARE_ARGS ?= --optimizers adamw grassjump --steps 100 --eval-every 50 --sweep learning_rate=5e-3,1e-2,2e-2 --sweep scale=0.1,0.25
SOAK_DIR ?= runs/soak
SOAK = JAX_PLATFORMS=cpu $(BIN)/python -m tests.train.soak --folder $(SOAK_DIR)
KILLS ?= 200
DISKS ?= $(shell unshare --mount true 2> /dev/null && echo 0.3 2 4 5 6 8 10 20)
PYTEST_ARGS ?= -n 2 --dist worksteal

.PHONY: train compare test test-long soak check format docs dist clean

# Pretrain a small LLaMA on real text: loss falling, then a sample of what it writes.
train: $(VENV)/.train-$(DEVICE)
	$(TRAIN) pretrain --model tiny --optimizer $(OPTIMIZER) --steps $(STEPS) --run-dir $(RUN_DIR) --seed 0

# AdamW and GrassJump, each with the best of the same learning rates and scales: a table and a plot. Run it again to
# resume where it stopped.
compare: $(VENV)/.train-$(DEVICE)
	$(TRAIN) compare --model tiny $(COMPARE_ARGS) --run-dir $(COMPARE_DIR)

# All tests but the long ones. Those of tests/mesh need eight devices, so they run in processes of their own.
test: $(VENV)/.train-test
	$(BIN)/python -m pytest $(PYTEST_ARGS)
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/mesh

# The tests that take minutes, which `make test` leaves out.
test-long: $(VENV)/.train-test
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m long
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m long tests/mesh

# A small run, killed again and again at random moments: an hour. Run it again to continue. Then disks that are too
# small, where this user may mount them.
soak: $(VENV)/.train-test
	$(SOAK) --kills $(KILLS) --json $(SOAK_DIR)/rounds.json
	$(SOAK) --kills $(shell expr $(KILLS) / 4) --json $(SOAK_DIR)/in_backward.json --variant in_backward
	$(SOAK) --kills $(KILLS) --json $(SOAK_DIR)/rounds.json --disks $(DISKS)

# Format, lint and types: what CI and the pre-commit hooks run.
check: $(VENV)/.train-test $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The site, in build/site: warnings are errors, the tutorials are run, and links inside it are followed.
docs: $(VENV)/.docs
	JAX_PLATFORMS=cpu PYTHONPATH=. $(BIN)/python -m sphinx -E -W --keep-going -c docs/site -d build/doctrees . build/site
	$(BIN)/python docs/site/check_links.py build/site

# Wheel and sdist, in dist. TAG=v1.2.3 also checks that this is the version.
dist: $(VENV)/.release
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m tests.packaging.release dist $(TAG)

clean:
	rm -rf $(VENV)

$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON to one.")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.train-$(DEVICE): $(VENV)/.python pyproject.toml
	$(BIN)/pip install --quiet --editable '.[$(EXTRA_$(DEVICE))]'
	touch $@

$(VENV)/.train-test: $(VENV)/.python pyproject.toml
	$(BIN)/pip install --quiet --editable '.[train,test]'
	touch $@

$(VENV)/.dev $(VENV)/.docs $(VENV)/.release: $(VENV)/.python pyproject.toml
	$(BIN)/pip install --quiet --editable '.[$(subst .,,$(@F))]'
	touch $@
