"""A notebook as a page without its code, for colleagues who do not program, on this machine alone.

References:
    Voilà, https://voila.readthedocs.io
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from maml_toolkit import jobs

TEMPLATE = """{% extends 'voila/templates/lab/index.html.j2' %}
{% block notebook_css %}{% set styles %}{{ super() }}{% endset %}{{ styles | replace('href="https://', 'title="') }}
{% endblock notebook_css %}
"""
"""Voilà's page without the two style sheets that it asks of a network: icons, of which these pages have none."""


def serve(notebook: str | Path, parameters: Mapping[str, Any], port: int = 8866, browser: bool = True) -> int:
    """Show a notebook as a page without its code, on 127.0.0.1 and behind a token, until it is stopped.

    Returns:
        Voilà's exit status.

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
    with TemporaryDirectory() as folder:
        shown = Path(folder) / source.name
        filled = parameterize_notebook(load_notebook_node(str(source)), jobs.plain(parameters),
                                       kernel_name="python3", language="python")
        nbformat.write(filled, shown)
        template = Path(folder) / "voila" / "templates" / "offline"
        template.mkdir(parents=True)
        (template / "conf.json").write_text('{"base_template": "lab"}', encoding="utf-8")
        (template / "index.html.j2").write_text(TEMPLATE, encoding="utf-8")
        command = [sys.executable, "-m", "voila", str(shown), f"--port={port}", "--Voila.ip=127.0.0.1", "--token",
                   "--template=offline"]
        command += [] if browser else ["--no-browser"]
        paths = os.pathsep.join(filter(None, [folder, os.environ.get("JUPYTER_PATH")]))
        return subprocess.run(command, check=False, env={**os.environ, "JUPYTER_PATH": paths}).returncode
