# `make help` lists what can be asked for. Needed: Python 3.10-3.12 with venv and headers, a C++ compiler, make.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# A session: `make sim TASK=humanoid_getup CLOCK=lockstep DURATION=5`
TASK ?= cartpole_swingup
CLOCK ?= realtime
DURATION ?= 30
SEED ?= 0
DRIVER ?=
RUN_DIR ?=
ARGS ?=

session = task:=$(TASK) clock:=$(CLOCK) duration:=$(DURATION) seed:=$(SEED) \
	$(if $(DRIVER),driver:=$(DRIVER)) $(if $(RUN_DIR),run_dir:=$(RUN_DIR)) $(ARGS)

# What an installation is made of; folders too, since a deleted file changes only its folder's time.
sources := setup.py pyproject.toml CMakeLists.txt package.xml requirements.txt requirements-dynamixel.txt \
	requirements-gym.txt requirements-hand.txt requirements-offline.txt requirements-ros.txt \
	requirements-tensorboard.txt \
	$(shell find polo_ros msg launch config models resource weights -name __pycache__ -prune -o -print)

# Set by the ROS wheels in every Python process of an environment: ours must set it for itself.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE
# A ROS installation that the shell has sourced must not be mixed with the wheels of the environment.
ifdef AMENT_PREFIX_PATH
unexport LD_LIBRARY_PATH
endif
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH PYTHONPATH

.PHONY: help env install sim robot test lint format colcon clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | expand -t 10

env: $(VENV)/.installed ## make .venv with everything in it (instant when nothing changed)

install: env ## the same: install again after a change

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 10) <= v < (3, 13) or sys.exit( \
		f"Python 3.10, 3.11 or 3.12 needed, $(PYTHON) is {v.major}.{v.minor}; name another: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.requirements: requirements.txt requirements-dynamixel.txt requirements-gym.txt requirements-hand.txt \
		requirements-offline.txt requirements-ros.txt requirements-build.txt requirements-dev.txt | $(BIN)/python
	@# The pip that Python 3.10 brings searches for versions for ever.
	$(PIP) install --quiet pip==25.3
	$(PIP) install --quiet -r requirements.txt -r requirements-build.txt -r requirements-dev.txt
	@touch $@

# flock: two terminals may install at once.
$(VENV)/.installed: $(VENV)/.requirements $(sources)
	flock $(VENV)/.lock $(PIP) install --quiet --no-build-isolation --no-deps .
	@touch $@

sim: env ## run a session in simulation: TASK, CLOCK, DURATION, SEED, DRIVER, RUN_DIR, ARGS="name:=value ..."
	$(BIN)/polo launch sim $(session)

robot: env ## the same on a robot: DRIVER names its driver (default: mock, no robot at all)
	$(BIN)/polo launch robot $(session)

lint: env ## style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@# On the installed package, which alone has polo_ros.msg; lint-imports looks in its current folder first.
	cd $(VENV) && bin/lint-imports --config ../pyproject.toml --no-cache

format: env ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint ## everything that CI checks on one machine without ROS installed: lint and all tests
	@# A file's tests stay together: they share what is expensive. Sessions come last and have the machine to themselves.
	$(BIN)/pytest -m "not alone" --numprocesses auto --maxprocesses 8 --dist loadfile
	$(BIN)/pytest -m alone

colcon: env ## build with colcon as on a ROS machine, and check what it installs
	bash .ci/colcon $(VENV)

clean: ## delete builds and caches, not .venv and not runs
	rm -rf build dist install log *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find polo_ros test -name __pycache__ -type d -prune -exec rm -rf {} +
