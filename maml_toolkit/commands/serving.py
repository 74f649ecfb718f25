"""A notebook as a page without its code, for colleagues who do not program, on this machine alone.

References:
    Voilà, https://voila.readthedocs.io
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from maml_toolkit.commands import jobs
from maml_toolkit.system import processes, signals
from maml_toolkit.system.home import at_home

TEMPLATE = """{% extends 'voila/templates/lab/index.html.j2' %}
{% block notebook_css %}{% set styles %}{{ super() }}{% endset %}{{ styles | replace('href="https://', 'title="') }}
{% endblock notebook_css %}
"""
"""Voilà's page without the two style sheets that it asks of a network: icons, of which these pages have none."""


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
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    source = jobs.find(notebook)
    parameters = jobs.check(source, parameters)
    if importlib.util.find_spec("voila") is None:
        raise ImportError('Voilà is not installed; install it: pip install "maml_toolkit[app]"')
    with (suppress(signals.Stopped), signals.noticed() as notice, notice.at_once(), at_home(),
          TemporaryDirectory() as folder):
        shown = Path(folder) / source.name
        filled = parameterize_notebook(load_notebook_node(str(source)), jobs.plain(parameters),
                                       kernel_name="python3", language="python")
        nbformat.write(filled, shown)
        template = Path(folder) / "voila" / "templates" / "offline"
        template.mkdir(parents=True)
        (template / "conf.json").write_text('{"base_template": "lab"}', encoding="utf-8")
        (template / "index.html.j2").write_text(TEMPLATE, encoding="utf-8")
        words = [str(shown), f"--port={port}", "--Voila.ip=127.0.0.1", "--token", "--template=offline"]
        words += [] if browser else ["--no-browser"]
        paths = os.pathsep.join(filter(None, [folder, os.environ.get("JUPYTER_PATH")]))
        with processes.child("voila", words, env={**os.environ, "JUPYTER_PATH": paths}) as voila:
            return voila.wait()
    return 0
