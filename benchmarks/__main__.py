"""`python -m benchmarks --rows '[metrics]' --threads 1`: the benchmark's notebook as a job.

Every library gets the same number of threads, before any of them is imported.
"""

import os
import sys
from pathlib import Path

NOTEBOOK = Path(__file__).with_name("benchmark.ipynb")
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
             "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


def main(words: list[str]) -> None:
    """Run the notebook with the parameters of a command line."""
    from maml_toolkit.__main__ import options
    from maml_toolkit.commands import jobs

    known = jobs.parameters_of(NOTEBOOK)
    if "--help" in words:
        sys.stdout.writelines(f"--{name}: {one.help} [{one.default}]\n" for name, one in known.items())
        return
    given = options(words, known)
    if given.get("threads"):
        os.environ |= dict.fromkeys(VARIABLES, str(given["threads"]))
    jobs.run(NOTEBOOK, given.get("out", "runs/benchmark") + "/benchmark.ipynb", given)


if __name__ == "__main__":
    main(sys.argv[1:])
