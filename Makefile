# `make demo` and `make test` work in a fresh clone, on Linux with Python >= 3.10 and a C++ compiler. Each installs
# what it needs in .venv. A CUDA GPU and nvcc are used if present. setup.py explains FRS_BUILD and other variables.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
CPP := $(shell find csrc tests/cpp benchmarks -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

# One process per core with one thread each, because the tensors in tests are small.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --maxprocesses 8 --dist worksteal

.PHONY: demo test test-slow sanitize lint format bench coverage wheel wheel-aarch64 wheel-check hub clean

demo: .venv/built
	$(BIN)/frs-train demo

test: lint .venv/integrations
	$(PYTEST) -m "not slow"
	TRITON_INTERPRET=1 $(PYTEST) -m "not slow" tests/test_*.py

test-slow: .venv/built .venv/integrations
	$(PYTEST) -m "slow and not gpu"
	TRITON_INTERPRET=1 $(PYTEST) -m slow tests/test_*.py
	$(BIN)/pytest -m "slow and gpu"  # one at a time, as each takes most of the GPU's memory

sanitize: .venv/built  # tests/sanitizers.py says what it finds
	$(BIN)/python -m tests.sanitizers address
	$(BIN)/python -m tests.sanitizers thread

lint: .venv/built .venv/integrations
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python  # else it asks for a newer pyright

format: .venv/built
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

bench: .venv/built
	$(BIN)/pytest benchmarks/

# Lines of Python and C++ that the tests run, in a copy of the tree whose libraries count them. A test that fails there
# does not stop the count: counting makes calls slower and memory larger.
COVERAGE := cd build/coverage && CXXFLAGS="--coverage -fprofile-update=atomic" LDFLAGS=--coverage
COUNTED := -m "not slow" --ignore tests/test_cuda_build.py --cov --cov-report=  # that one compiles everything again
coverage: .venv/built .venv/integrations
	rm -rf build/coverage && mkdir -p build/coverage && ln -s ../../.venv build/coverage/.venv
	git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t build/coverage
	$(COVERAGE) FRS_BUILD=cpu $(BIN)/python setup.py -q build_ext --inplace
	-$(COVERAGE) $(PYTEST) $(COUNTED)
	-$(COVERAGE) TRITON_INTERPRET=1 $(PYTEST) $(COUNTED) --cov-append tests/test_*.py
	cd build/coverage && $(BIN)/coverage report
	cd build/coverage && $(BIN)/gcovr --merge-lines --filter csrc/ --txt-summary --sort uncovered-percent build

compile_commands.json: .venv/built  # for clangd
	$(BIN)/ninja -f "$$(ls -t build/linux-$$(uname -m)-*/build.ninja | head -1)" -t compdb cxx nvcc > $@

# One wheel for every Python and torch, with the kernels for the CPU, and for GPUs if there are nvcc and a CUDA build
# of torch. auditwheel checks that the libraries run with glibc 2.28, and refuses the name otherwise.
wheel: PLATFORM = manylinux_2_28_$(shell uname -m)
wheel-aarch64: PLATFORM = auto  # auditwheel takes no name of another architecture, but finds the right one
wheel-aarch64: CROSS = CXX=aarch64-linux-gnu-g++ FRS_BUILD=cpu
wheel-aarch64: NEED_TORCH = -Xlinker --no-as-needed  # though the empty libtorch_cpu.so has no symbol
wheel wheel-aarch64: .venv/built .venv/wheel
	rm -rf build/lib* build/bdist* build/wheel build/older_glibc
	$(CROSS) $(BIN)/python csrc/older_glibc.py build/older_glibc
	$(CROSS) LDFLAGS="-Lbuild/older_glibc $(NEED_TORCH)" \
		$(BIN)/python -m build --wheel --no-isolation --outdir build/wheel
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/auditwheel repair --only-plat --plat $(PLATFORM) --exclude 'libtorch*' \
		--wheel-dir dist build/wheel/*.whl

wheel-check: wheel  # in a new environment for each Python on PATH and several releases of torch (downloads gigabytes)
	$(BIN)/python tests/wheel_check.py

hub: .venv/built  # the layout that the package `kernels` loads, in build/hub
	$(BIN)/python csrc/hub_layout.py

.venv/built: .venv/installed setup.py pyproject.toml $(shell find csrc -type f -not -name '*.pyc')
	FRS_BUILD=none $(BIN)/python -m pip install -q --no-build-isolation --no-deps -e .
	$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

.venv/installed: requirements.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.10 to 3.14 on PATH. Install one, or: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.path.insert(0, "csrc"); import toolchain; toolchain.find_cxx()'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/integrations: .venv/installed requirements-integrations.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -r requirements-integrations.txt
	@touch $@

.venv/wheel: .venv/installed requirements-wheel.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements-wheel.txt
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis frs_kernels/*.so \
		frs_kernels/build_info.json compile_commands.json
