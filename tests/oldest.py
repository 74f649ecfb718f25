"""Prints the oldest versions that pyproject.toml allows, as constraints for pip: `make test-oldest` installs them."""

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
KEPT = {"torch": "2.13.0"}
"""Versions that stay as constraints.txt has them: every older build for CPUs would be another download of 200 MB."""


def oldest(project: dict) -> dict[str, str]:
    """Package -> lower bound, of everything that the project and its extras ask for.

    Raises:
        ValueError: a package without a lower bound.
    """
    listed = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    found = {}
    for requirement in listed:
        name = re.match(r"[\w.-]+", requirement)[0]
        if name == project["name"]:
            continue
        bound = re.search(r">=\s*([\w.]+)", requirement)
        if not bound:
            raise ValueError(f"{requirement!r} has no lower bound; give it one in pyproject.toml")
        found[name] = KEPT.get(name, bound[1])
    return found


if __name__ == "__main__":
    asked = oldest(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"])
    sys.stdout.write("".join(f"{name}=={version}\n" for name, version in sorted(asked.items())))
