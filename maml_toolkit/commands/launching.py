"""A notebook in other programs than a kernel of its own: several processes under torchrun, or a page without code.

    torchrun --nproc-per-node 2 -m -- maml_toolkit train prepared --run runs/first

The first process runs the job's notebook as ever, so that the run folder is the same; the others run the code of its
cells without a kernel and without showing anything. They meet in the Trainer (distributed.py). The page is Voilà's, for
colleagues who do not program, on this machine alone.

References:
    Voilà, https://voila.readthedocs.io
"""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import io
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from maml_toolkit.commands import jobs
from maml_toolkit.commands.parameters import as_words, check, find, parameters_of, plain
from maml_toolkit.prediction.runs import Run
from maml_toolkit.system.processes import Stopped, at_home, child, noticed

if TYPE_CHECKING:
    import pandas as pd
    from nbformat import NotebookNode

SHARED = ("train",)
"""The commands that several processes do together."""

TEMPLATE = """{% extends 'voila/templates/lab/index.html.j2' %}
{% block notebook_css %}{% set styles %}{{ super() }}{% endset %}{{ styles | replace('href="https://', 'title="') }}
{% endblock notebook_css %}
"""
"""Voilà's page without the two style sheets that it asks of a network: icons, of which these pages have none."""


def run(command: str, notebook: str, output: Path | None, parameters: Mapping[str, Any]) -> Path | None:
    """Run a job, alone or as one of the processes that torchrun started.

    Returns:
        The executed notebook, in the first process; None in the others.

    Raises:
        ValueError: as `jobs.run`; or there are several processes and the command is not for them.
        JobError: as `jobs.run`.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return jobs.run(notebook, output, parameters)
    if command not in SHARED:
        raise ValueError(f"{command} runs in one process, found WORLD_SIZE={os.environ['WORLD_SIZE']} in the "
                         f"environment; start it without torchrun, which is for {', '.join(SHARED)}")
    from maml_toolkit.training import distributed  # imports torch, for seconds

    if distributed.world().first:
        return jobs.run(notebook, output, parameters)
    run_silently(notebook, parameters)
    return None


def run_silently(notebook: str | Path, parameters: Mapping[str, Any]) -> None:
    """Run the code of a notebook in this process; what it prints and shows is dropped, an error is raised.

    Raises:
        ValueError: no such notebook, or parameters that it does not know; nothing was run.
    """
    source, filled = with_parameters(notebook, parameters)
    os.environ["MPLBACKEND"] = "agg"
    names: dict[str, Any] = {"__name__": "__main__", "display": lambda *_, **__: None}
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in filled.cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, source.name, "exec"), names)


def with_parameters(notebook: str | Path, parameters: Mapping[str, Any]) -> tuple[Path, NotebookNode]:
    """The path of a notebook, and its content with these values instead of its own.

    Raises:
        ValueError: no such notebook, or parameters that it does not know.
    """
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    source = find(notebook)
    values = plain(check(source, parameters))
    return source, parameterize_notebook(load_notebook_node(str(source)), values, kernel_name="python3",
                                         language="python")


def launch(processes: int, **parameters: Any) -> pd.DataFrame:
    """Train in several processes of this machine, from a notebook or a script, and show the progress.

        history = launch(2, prepared="prepared", run="runs/first")

    Args:
        processes: how many; one for each GPU, or for some cores each.
        parameters: of 2-train.ipynb.

    Returns:
        The run's history, one row an epoch. When this call is interrupted, the processes end with it.

    Raises:
        ValueError: no processes, or parameters that the notebook does not have; nothing was started.
        RuntimeError: a process failed; with its last lines.
    """
    if processes < 1:
        raise ValueError(f"found processes={processes}, expected 1 or more")
    parameters = check("2-train", parameters)
    known = parameters_of("2-train")
    # nobody looks at the notebook that runs there, so its bars shall be text and its pictures its own
    environment = {name: value for name, value in os.environ.items() if name not in ("JPY_SESSION_NAME", "MPLBACKEND")}
    # -- because torchrun would take --run for a part of its own --run-path
    words = ["--standalone", "--nproc-per-node", str(processes), "-m", "--", "maml_toolkit", "train",
             *as_words(parameters, known)]
    with child("torch.distributed.run", words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
               env=environment) as torchrun:
        last = relay(torchrun)
        torchrun.wait()
    if torchrun.returncode:
        raise RuntimeError(f"training in {processes} processes ended with status {torchrun.returncode}:\n"
                           + "".join(last))
    return Run(parameters.get("run") or known["run"].value).epochs()


def relay(started: subprocess.Popen) -> list[str]:
    """Pass on what a process writes, its bars included, until its end; returns the last lines."""
    last: collections.deque[str] = collections.deque(maxlen=40)
    with io.TextIOWrapper(started.stdout, encoding="utf-8", errors="replace", newline="") as lines:
        for line in lines:
            sys.stderr.write(line)
            sys.stderr.flush()
            if line.endswith("\n"):
                last.append(line)
    return list(last)


def serve(notebook: str | Path, parameters: Mapping[str, Any], port: int = 8866, browser: bool = True) -> int:
    """Show a notebook as a page without its code, on 127.0.0.1 and behind a token, until it is stopped.

    A signal that stops this process ends Voilà and its kernels too.

    Returns:
        Voilà's exit status; 0 after SIGTERM or SIGHUP.

    Raises:
        ValueError: no such notebook, or parameters that it does not know.
        ImportError: Voilà is not installed.
    """
    import nbformat

    source, filled = with_parameters(notebook, parameters)
    if importlib.util.find_spec("voila") is None:
        raise ImportError('Voilà is not installed; install it: pip install "maml_toolkit[app]"')
    with (contextlib.suppress(Stopped), noticed() as notice, notice.at_once(), at_home(),
          TemporaryDirectory() as folder):
        shown = Path(folder) / source.name
        nbformat.write(filled, shown)
        template = Path(folder) / "voila" / "templates" / "offline"
        template.mkdir(parents=True)
        (template / "conf.json").write_text('{"base_template": "lab"}', encoding="utf-8")
        (template / "index.html.j2").write_text(TEMPLATE, encoding="utf-8")
        words = [str(shown), f"--port={port}", "--Voila.ip=127.0.0.1", "--token", "--template=offline"]
        words += [] if browser else ["--no-browser"]
        paths = os.pathsep.join(filter(None, [folder, os.environ.get("JUPYTER_PATH")]))
        with child("voila", words, env={**os.environ, "JUPYTER_PATH": paths}) as voila:
            return voila.wait()
    return 0
