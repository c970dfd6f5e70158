# Every target sets itself up in .venv the first time: make help

# Programs to try for a new .venv; name one with PYTHON=
PYTHONS = $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)
READY = .venv/.ready
BROWSER_TOOLS = playwright==1.65.2 axe-playwright-python==0.1.8
BIN = .venv/bin
# uv takes a tenth of pip's time; where it cannot run or reach the packages, pip may.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
UV = $(BIN)/uv pip install --quiet --python $(BIN)/python

# The checks start hundreds of interpreters, which would compile Google's libraries each time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help tutorial app test test-again test-browser test-colab test-readers notebooks screenshots lint docs bench release-check lock links
.DELETE_ON_ERROR:

help:
	@echo 'make tutorial      the tutorial in JupyterLab on a local Valkey (PORT=, FRESH=1 for new notebooks, JUPYTER_ARGS=)'
	@echo 'make app           the web app on a local Valkey, with the demo model (PORT=, MODEL=)'
	@echo 'make test          every check (PYTEST_ARGS="-k codec" for some of the unit tests, STEPS="lint tests notebooks")'
	@echo 'make test-again    every cell twice, exercises solved (some minutes)'
	@echo 'make test-browser  transcripts and Run All in a real browser (needs Chromium)'
	@echo 'make test-colab    each notebook in a twin of Colab or Workbench (needs Python 3.13 and 3.12)'
	@echo 'make test-readers  test-again and test-colab at once'
	@echo 'make notebooks     execute the notebooks and write their outputs back (NOTEBOOK=notebooks/01_setup.ipynb)'
	@echo 'make screenshots   README.md'\''s pictures (needs Chromium)'
	@echo 'make lint          style, types, spelling, workflows'
	@echo 'make docs          the site, in docs/_build/html'
	@echo 'make bench         history and checkpointer beside their peers (BENCH_ARGS=--quick)'
	@echo 'make release-check the wheel built, checked, and tried (TAG=v0.2.0)'
	@echo 'make lock          requirements.txt from pyproject.toml (LOCK_ARGS=--upgrade for newer versions)'
	@echo 'make links         links to your fork, from git remote (REPO=owner/name, BRANCH=, INSTALL=index)'

$(READY): requirements.txt pyproject.toml
	@set -e; new='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if ! $(BIN)/python -c "$$new" 2>/dev/null; then \
	  python=; \
	  for candidate in $(PYTHONS); do \
	    if "$$candidate" -c "$$new" 2>/dev/null; then python=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo 'Python 3.11 or newer is needed, and none of these is: $(PYTHONS).' >&2; \
	    echo 'Install one, or say where it is: make PYTHON=/path/to/python3 ...' >&2; \
	    exit 1; \
	  fi; \
	  "$$python" -m venv --clear .venv; \
	fi; \
	echo 'Installing into .venv (some seconds, only now and when requirements.txt changes)'; \
	[ -x $(BIN)/uv ] || $(PIP) "$$(grep '^uv==' requirements.txt)" || true; \
	$(UV) --no-deps -r requirements.txt || $(PIP) --no-deps -r requirements.txt; \
	$(UV) --no-deps -e . || $(PIP) --no-deps -e .; \
	touch $@

tutorial: $(READY)
	@exec $(BIN)/python tools/tutorial.py $(if $(FRESH),--fresh) $(if $(FOLDER),--folder '$(FOLDER)') \
	  $(if $(PORT),--port=$(PORT)) $(JUPYTER_ARGS)

app: $(READY)
	@PORT='$(PORT)' exec $(BIN)/python tools/run_app.py

test: $(READY)
	@$(BIN)/python tools/check.py $(if $(PYTEST_ARGS),tests --pytest $(PYTEST_ARGS),$(STEPS))

test-again: $(READY)
	@$(BIN)/python -m pytest -m again --numprocesses=2 $(PYTEST_ARGS)

# Playwright brings a program of 165 MB that nothing else needs.
.venv/.browser: $(READY)
	@$(UV) $(BROWSER_TOOLS) || $(PIP) $(BROWSER_TOOLS)
	@touch $@

test-browser: .venv/.browser
	@$(BIN)/python -m pytest -m browser --numprocesses=2 --dist=worksteal $(PYTEST_ARGS)

test-colab: $(READY)
	@$(BIN)/python -m pytest -m colab --numprocesses=2 --dist=loadgroup $(PYTEST_ARGS)

# The two together fill the cores; Playwright's event loop keeps the browser's tests apart.
test-readers: $(READY)
	@$(BIN)/python -m pytest -m 'again or colab' --numprocesses=3 --dist=loadgroup $(PYTEST_ARGS)

lint: $(READY)
	@$(BIN)/python tools/check.py lint

# A throw-away server, unless MEMORYSTORE_ENDPOINT names one.
notebooks: $(READY)
	@$(BIN)/python -m memorystore_chat.embedded run --temporary -- \
	  $(BIN)/python tools/run_notebooks.py $(NOTEBOOK)

screenshots: .venv/.browser
	@$(BIN)/python tools/screenshots.py

docs: $(READY)
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky -b $(or $(DOCS_BUILDER),html) docs docs/_build/$(or $(DOCS_BUILDER),html)

bench: $(READY)
	@PYTHONPATH=tests/support $(BIN)/python bench/bench.py $(BENCH_ARGS)

lock: $(READY)
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate \
	  --custom-compile-command 'make lock' --extra dev $(LOCK_ARGS) -o requirements.txt pyproject.toml

links: $(READY)
	@$(BIN)/python tools/links.py $(if $(REPO),--repository '$(REPO)') \
	  $(if $(BRANCH),--branch '$(BRANCH)') $(if $(INSTALL),--install '$(INSTALL)')

release-check: $(READY)
	@$(BIN)/python tools/release.py $(TAG)
