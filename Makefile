# make demo   install, train on phantoms, segment with and without a scan, print the table
# make bench  install the peers beside it in .venv-bench, measure every row of the benchmark: about three hours on two cores
# make test   install what the tests need; linter, import contract, pytest with every notebook
# make test-gpu   the tests and measurements that need a CUDA GPU; ten minutes at most
# make docs   install what the documentation needs; build it into build/docs, for reading without a network
# make live-demo   train as `make demo` does and make the data of the documentation's live demo again
# make address OWNER=name   put the repository's public address, once it has one, where README.md and docs/index.md say OWNER
# make test-oldest   the tests once more, with the oldest versions that pyproject.toml allows, in .venv-oldest
PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
RUN := $(VENV)/bin/python
INPUTS := pyproject.toml constraints.txt

# nnU-Net's own tree, without torchvision and timm: nothing that is measured imports them
PEERS := nnunetv2 dynamic-network-architectures batchgeneratorsv2 acvl_utils
BENCH := .venv-bench

.PHONY: demo live-demo address test test-slow test-gpu test-oldest bench lint docs tutorials install clean

demo: $(VENV)/.installed
	$(RUN) -m maml_toolkit demo

live-demo: demo
	$(RUN) docs/demo.py runs/first-segmentation

address:
	@test -n "$(OWNER)" || { echo "Say whose repository it is: make address OWNER=name"; exit 2; }
	$(PYTHON) -c "import re, sys; from pathlib import Path; said = 'The project has no public address yet; .OWNER. stands for it[.]'; \
		[page.write_text(re.sub(f' {said}|{said} ', '', page.read_text('utf-8')).replace('OWNER/', sys.argv[1] + '/'), 'utf-8') \
		for page in map(Path, ('README.md', 'docs/index.md'))]" "$(OWNER)"

test: lint
	$(RUN) -m pytest -n 2 --dist worksteal

test-slow: $(VENV)/.installed-test
	$(RUN) -m pytest -m slow -n 2 --dist worksteal

# ten minutes on a CUDA GPU at most: the tests that need one, then what a step takes there, into build/gpu.json
test-gpu: $(VENV)/.installed-test
	$(RUN) -m pytest tests/test_gpu.py -rs
	$(RUN) tests/gpu_rows.py build/gpu.json --seconds 360

# what is old warns of what newer packages beneath it will drop
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -n 2 --dist worksteal -W ignore::DeprecationWarning

bench: $(BENCH)/.installed
	$(BENCH)/bin/python -m benchmarks

lint: $(VENV)/.installed-test
	$(RUN) -m ruff check .
	$(VENV)/bin/lint-imports --no-cache

docs: $(VENV)/.installed-docs
	$(RUN) docs/build.py build/docs
	@echo "Documentation: build/docs/index.html"

# run the tutorials again and keep their pictures, but not when and how fast they ran
tutorials: $(VENV)/.installed-test
	rm -rf build/tutorials
	mkdir -p build/tutorials
	for one in tutorials/*.ipynb; do $(RUN) -c "import sys; from maml_toolkit.commands import jobs; \
		jobs.run(sys.argv[1], 'build/' + sys.argv[1], cwd='build/tutorials')" $$one || exit 1; done
	$(RUN) tutorials/stored.py build/tutorials/*.ipynb
	cp build/tutorials/runs/first-segmentation/segmentation.png tutorials/pictures/contributions.png

install: $(VENV)/.installed

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed; say which with: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)

# A stamp for each set of packages: nothing is installed again, so both work offline, until the inputs change.
$(VENV)/.installed: $(INPUTS) | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(INPUTS) | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(INPUTS) | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	@touch $@ $(VENV)/.installed

$(OLDEST)/.installed: pyproject.toml tests/oldest.py
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python tests/oldest.py > $(OLDEST)/oldest.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(OLDEST)/oldest.txt -e ".[test]"
	@touch $@

$(BENCH)/.installed: $(INPUTS)
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps $(PEERS)
	@touch $@

clean:
	rm -rf $(VENV) $(OLDEST) $(BENCH) .pytest_cache .ruff_cache
