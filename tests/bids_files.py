"""What the validator of BIDS says of a data set, for the tests of what is written and of what is predicted."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def errors_of_the_validator(folder: Path) -> list[tuple]:
    """What the validator of BIDS calls errors, in the data set and in its derivatives; skips where it is not
    installed (`pip install bids-validator-deno`, 150 MB)."""
    program = shutil.which("bids-validator-deno", path=os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if program is None:
        pytest.skip("no bids-validator-deno")
    found = json.loads(subprocess.run([program, str(folder), "--recursive", "--format", "json"], check=False,
                                      capture_output=True, text=True).stdout)
    parts = [found["issues"], *(part["issues"] for part in found.get("derivativesSummary", {}).values())]
    assert len(parts) == 1 + sum(1 for _ in folder.glob("derivatives/*"))
    return [(one["code"], one["location"]) for part in parts for one in part["issues"] if one["severity"] == "error"]
