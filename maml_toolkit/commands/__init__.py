"""The commands of `maml-toolkit`, or `python -m maml_toolkit`, by what they work on.

A job runs one notebook and does nothing that the notebook does not do; its options are the notebook's parameters,
which `python -m maml_toolkit train --help` lists; its main input needs no name. What is done to files before the first
job (`dicom`, `chaos`, `audit`, `mend`, `register`) and what follows the last (`fit`, `merge`, `report`, `share`,
`export`) are one call of the library each; so is `predict --dicom`, which answers a study from a PACS.

The exit status of a job is 0, or 1 after an error; `predict` counts failed cases. It is 75 (EX_TEMPFAIL) after SIGTERM
or SIGUSR1, by which a scheduler takes a machine back, and after SIGHUP, when the terminal is closed: the work so far
is saved, and the same command goes on from there, so a job that ends so is queued again. Ctrl-C saves too, and ends
with 130.
"""

from maml_toolkit.commands import doctor, files, notebooks, results
from maml_toolkit.commands.notebooks import summary
from maml_toolkit.commands.parameters import options
from maml_toolkit.commands.shell import app

__all__ = ["app", "doctor", "files", "notebooks", "options", "results", "summary"]
