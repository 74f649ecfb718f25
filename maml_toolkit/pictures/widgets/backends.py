"""What can draw a case in three dimensions here, and if not, why not; nothing is imported to find out.

- `niivue`: in JupyterLab, Notebook 7 and Voilà, without a network.
- `itkwidgets`: in JupyterLab and Notebook 7, with a network: its viewer is fetched from other hosts, and until it has
  come every later cell waits. So it is looked for only when it is asked for by name, and those hosts are tried first.
- `static`: a picture, everywhere.

References:
    NiiVue, https://github.com/niivue/niivue
    itkwidgets, https://itkwidgets.readthedocs.io
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import psutil

ANSWER_S = 2.0
"""How long a host of itkwidgets may take to answer."""

RANGES = {"ipyniivue": ((2, 4), (3, 0)), "itkwidgets": ((1, 0), (2, 0)), "ngff-zarr": ((0, 13), (0, 33)),
          "zarr": ((2, 0), (3, 0)), "imjoy-jupyterlab-extension": ((0, 2), (1, 0))}
"""The first release that works, and the first that does not."""

NO_BROWSER = "no browser looks at this notebook, which is run by papermill, nbconvert or a script"


def available() -> dict[str, str]:
    """Each back end, and "" where it works here, else the reason why not in one sentence.

    Takes at most a few seconds, where itkwidgets is installed and its hosts do not answer.
    """
    return {name: reason() for name, reason in _REASONS.items()}


def chosen(backend: str) -> tuple[str, str]:
    """The back end that will draw, and where it is not the one that was asked for, why.

    Raises:
        ValueError: nothing has this name.
    """
    if backend not in ("auto", *_REASONS):
        raise ValueError(f"found the back end {backend!r}, expected 'auto', {', '.join(_REASONS)}")
    if backend == "auto":
        reason = _niivue()
        return ("static", reason) if reason else ("niivue", "")
    # a view in NiiVue is kept with the notebook, so it may be asked for without a browser
    reason = _lacking("ipyniivue", "view") if backend == "niivue" else _REASONS[backend]()
    return ("static", reason) if reason else (backend, "")


def _niivue() -> str:
    return _lacking("ipyniivue", "view") or ("" if _looked_at() else f"NiiVue waits for a browser, and {NO_BROWSER}.")


def _itkwidgets() -> str:
    for package in ("itkwidgets", "ngff-zarr", "zarr", "imjoy-jupyterlab-extension"):
        if reason := _lacking(package, "itkwidgets"):
            return reason
    if not _looked_at(voila=False):
        return f"itkwidgets would let every later cell wait for a browser, and {NO_BROWSER}."
    silent = [host for host in _hosts() if not _answers(host)]
    return "" if not silent else (f"itkwidgets fetches its viewer from {', '.join(silent)}, which cannot be reached "
                                  f"within {ANSWER_S:.0f} s.")


_REASONS: dict[str, Callable[[], str]] = {"itkwidgets": _itkwidgets, "niivue": _niivue, "static": lambda: ""}


def _lacking(package: str, extra: str) -> str:
    """Why a package cannot be used: it is not there, or it is another release."""
    first, last = RANGES[package]
    wanted = f"{package}>={first[0]}.{first[1]},<{last[0]}.{last[1]}"
    try:
        found = metadata.version(package)
    except metadata.PackageNotFoundError:
        return f"{package} is not installed; pip install 'maml_toolkit[{extra}]' brings it."
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:2])
    return "" if first <= numbers < last else f"{package} is {found}, and {wanted} is needed; install that."


def _looked_at(voila: bool = True) -> bool:
    """Whether a browser shows what this kernel displays: a Jupyter server or Voilà started it for a page.

    They alone name the page in the environment. A notebook that another notebook runs inherits that name, so it must
    not stand in the environment of the process that started this one.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if getattr(shell, "kernel", None) is None:
        return False
    names = ["JPY_SESSION_NAME", *(["VOILA_BASE_URL"] if voila else [])]
    return any(name in os.environ and name not in _parents_environment() for name in names)


def _parents_environment() -> dict[str, str]:
    try:
        return psutil.Process(os.getppid()).environ()
    except (psutil.Error, OSError):
        return {}


def _hosts() -> list[str]:
    """The hosts that itkwidgets fetches from, read in its settings without importing it."""
    found = find_spec("itkwidgets")
    settings = ""
    if found and found.origin:
        settings = Path(found.origin).with_name("viewer_config.py").read_text(encoding="utf-8")
    return sorted({urlsplit(address).hostname or "" for address in re.findall(r"https://[^\s\"']+", settings)})


def _answers(host: str) -> bool:
    try:
        with socket.create_connection((host, 443), ANSWER_S):
            return True
    except OSError:
        return False
