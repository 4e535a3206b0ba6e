# make demo | test | bench: each does all of its set-up in .venv, from nothing but Python and a C++ compiler.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard csrc/*) CMakeLists.txt setup.py pyproject.toml constraints-dev.txt
CXX ?= g++

.PHONY: all demo test check unit slow sanitize bench numerics clean
all: test

# CPU wheels of torch are enough to develop and test; TORCH_INDEX=<url> picks another package index for it.
$(VENV)/.installed: $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet -c constraints-dev.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet -c constraints-dev.txt "pybind11>=2.12" "cmake>=3.18" ninja
	$(BIN)/python -m pip install --quiet -c constraints-dev.txt --no-build-isolation -e ".[dev]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/lwm-fast demo --output demo

# Style and types, every test (the slow ones too), and the C++ core under sanitizers.
test: check unit sanitize

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=tests $(BIN)/mypy --config-file= --ignore-missing-imports tests

unit: $(VENV)/.installed
	$(BIN)/python -m pytest tests

sanitize: $(VENV)/.installed
	$(BIN)/cmake -S . -B build/sanitize -DLWM_FAST_SANITIZE=ON -DLWM_FAST_WERROR=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo
	$(BIN)/cmake --build build/sanitize -j2
	build/sanitize/lwm_fast_sanitize

# Ratios and medians into bench/results/; needs the machine to itself.
bench: $(VENV)/.installed
	$(BIN)/python -m bench

clean:
	rm -rf build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache $(VENV)
