# make demo | test | bench: each does all of its set-up in .venv, from nothing but Python and a C++ compiler.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard csrc/* csrc/encoder/*) CMakeLists.txt setup.py pyproject.toml constraints-dev.txt
CXX ?= g++

.PHONY: all demo test check unit kernels sanitize bench clean
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

# Style and types, every test (the slow ones too), the Triton kernels, and the C++ core under sanitizers.
test: check unit kernels sanitize

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=tests $(BIN)/mypy --config-file= --ignore-missing-imports --exclude tests/kernels tests

unit: $(VENV)/.installed
	$(BIN)/python -m pytest tests --ignore tests/kernels/interpret --ignore tests/kernels/compile

# Without a GPU: the kernels in Triton's interpreter, and every variant compiled for sm_90 and sm_80 by two
# versions of Triton. A process either interprets or compiles, hence several.
kernels: $(VENV)/.installed $(VENV)/triton-3.6/.installed
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/kernels/interpret
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/kernels/compile
	PYTHONPATH=$(VENV)/triton-3.6 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/kernels/compile

$(VENV)/triton-3.6/.installed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/triton-3.6 triton==3.6.0
	touch $@

sanitize: $(VENV)/.installed
	$(BIN)/cmake -S . -B build/sanitize -DLWM_FAST_SANITIZE=ON -DLWM_FAST_WERROR=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo
	$(BIN)/cmake --build build/sanitize -j2
	build/sanitize/lwm_fast_sanitize

# Ratios and medians into bench/results/; needs the machine to itself.
bench: $(VENV)/.installed
	$(BIN)/python -m bench
	$(BIN)/python -m bench.cpu
	$(BIN)/python -m bench.report

clean:
	rm -rf build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache $(VENV)
