# Every target sets up what it needs: an environment in .venv with the versions of constraints.txt. A second call installs
# nothing. `make PYTHON=python3.12` takes another Python; `make TORCH_INDEX=https://download.pytorch.org/whl/cu128` a CUDA build.
PYTHON ?= python3
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := .venv/bin
INSTALLED := .venv/.installed-$(shell cat pyproject.toml constraints.txt | cksum | tr ' ' '-')
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help book test test-slow lint lab first-cells pdf linkcheck report release conda clean

help: ## Show this help
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

book: $(INSTALLED) ## Execute the chapters that changed and build the book: _build/html/index.html
	$(BIN)/jupyter-book build book -W -n --keep-going

test: $(INSTALLED) ## Run the quick tests, with coverage
	$(PYTEST) -m "not slow" -n 2 --cov --cov-report=term --cov-fail-under=90

test-slow: $(INSTALLED) ## Run the slow tests: chapters with other parameters, the book in a browser
	$(PYTEST) -m slow

lint: $(INSTALLED) ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lab: $(INSTALLED) ## Open the chapters in JupyterLab
	$(BIN)/jupyter lab notebooks

first-cells: $(INSTALLED) ## Write address and version of the repository into the cells by which Colab fetches it
	$(BIN)/python book/first_cell.py

pdf: $(INSTALLED) ## Print the whole book, with Chromium or Chrome: _build/ecgmoe.pdf
	$(BIN)/jupyter-book build book --builder singlehtml -W -n --keep-going
	$(BIN)/python book/print_book.py _build/singlehtml/intro.html _build/ecgmoe.pdf

linkcheck: $(INSTALLED) ## Check the links that leave the book, over the network: _build/linkcheck/output.txt
	$(BIN)/jupyter-book build book --builder custom --custom-builder linkcheck

report: $(INSTALLED) ## Report how the chapters ran and what changed since the last report: _build/report/report.md
	$(BIN)/python book/report_runs.py

# The tag comes from the shell's environment and is never read as code.
release: $(INSTALLED) ## Attach PDF and report to the release of a tag: make release TAG=v0.1.0 (needs gh)
	test "$$TAG" = "v$$($(BIN)/python -c 'import ecgmoe; print(ecgmoe.__version__)')"
	gh release view "$$TAG" >/dev/null 2>&1 || gh release create "$$TAG" --verify-tag --title "ecgmoe $$TAG" --notes "What changed: CHANGELOG.md"
	gh release upload "$$TAG" _build/ecgmoe.pdf _build/report/report.md --clobber

conda: ## Make the same environment with conda, named ecgmoe
	conda env create -f environment.yml
	conda run -n ecgmoe --no-capture-output bash postBuild

clean: ## Remove the book, its runs and everything cached; the environment and checkpoints in .cache/weights stay
	test ! -d .cache || find .cache -mindepth 1 -maxdepth 1 ! -name weights -exec rm -rf {} +
	rm -rf _build book/notebooks book/_generated runs/book .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage

# PyTorch comes first and without CUDA where its own index is in reach (200 MB, not 3 GB). momentfm asks for versions of
# 2023; it runs with the pinned ones, so its own are left aside.
$(INSTALLED):
	@$(PYTHON) -c 'import sys; sys.exit("ecgmoe needs Python 3.11 or newer: make PYTHON=...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-deps --retries 0 --timeout 5 --index-url $(TORCH_INDEX) -c constraints.txt torch 2>/dev/null || true
	$(BIN)/pip install --quiet -c constraints.txt -e '.[book,dev]'
	$(BIN)/pip install --quiet --no-deps -c constraints.txt momentfm
	rm -f .venv/.installed-*
	touch $@
