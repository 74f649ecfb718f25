"""The commands of `python -m maml_toolkit`, by what they work on.

A job runs one notebook and does nothing that the notebook does not do; its options are the notebook's parameters,
which `python -m maml_toolkit train --help` lists. What is done to files before the first job (`dicom`, `audit`,
`mend`, `register`) and what follows the last (`merge`, `report`, `share`, `export`) are one call of the library each.
"""

from maml_toolkit.commands import data, notebooks, results, sharing
from maml_toolkit.commands.notebooks import options, summary
from maml_toolkit.commands.shell import app

__all__ = ["app", "data", "notebooks", "options", "results", "sharing", "summary"]
