"""Runs a notebook as a job: looks it up, refuses parameters that it does not know, keeps what it wrote.

A job is a notebook with one cell tagged `parameters`. Papermill runs it with other values, cell by cell, and
the executed notebook (with every picture, and the traceback where a cell failed) is the record of the job. Until
its end it is called `<name>.unfinished.ipynb`.

References:
    Papermill, https://papermill.readthedocs.io
"""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from maml_toolkit.commands.parameters import check, expect_utf8, find, parameters_of, plain
from maml_toolkit.system import processes
from maml_toolkit.system.errors import silenced
from maml_toolkit.system.files import writable, write_whole

UNFINISHED = ".unfinished"
"""Before the suffix of a notebook that has not come to its end."""
PICTURES_IN_THE_NOTEBOOK = "module://matplotlib_inline.backend_inline"
"""What Jupyter gives a kernel unless the shell says otherwise, as the shells of clusters do."""


class JobError(RuntimeError):
    """A notebook stopped before its end.

    Attributes:
        notebook: that was run.
        executed: what it did until then, the traceback included: `<name>.unfinished.ipynb`.
    """

    def __init__(self, notebook: Path, executed: Path, what: str):
        self.notebook, self.executed = notebook, executed
        super().__init__(f"{notebook.name}: {what}\n  Executed until there: {executed}")

    def finished(self) -> Path:
        """Give what was executed the name of a finished notebook, where this failure is a result; returns it."""
        return _finish(self.executed, self.executed.with_name(self.executed.name.replace(UNFINISHED, "")))


class JobStopped(JobError):
    """A signal stopped a notebook: what it saved is there, and the job can be run again.

    Attributes:
        status: the exit status that says so; 130 after Ctrl-C.
    """

    def __init__(self, notebook: Path, executed: Path, what: str, status: int):
        self.status = status
        super().__init__(notebook, executed, what)


def run(notebook: str | Path, output: str | Path | None = None, parameters: Mapping[str, Any] | None = None,
        *, cwd: str | Path | None = None, progress: bool = True) -> Path:
    """Runs a notebook from its first cell to its last, in this Python, and writes down what it did.

    Args:
        notebook: a path or a name, see `find`.
        output: the executed notebook. When left out it goes into the folder of the job (its parameter `out`, or `run`;
            of an evaluation `predictions`, `run` or that of `out`), or into runs/<name>/ where it has none.
        parameters: values that replace the notebook's own.
        cwd: the folder in which it runs; the current one when left out.
        progress: pass what the notebook prints and its progress bars on to this process's output.

    Returns:
        The executed notebook. Until the last cell is done it is `<name>.unfinished.ipynb`, written cell by cell, and
        stays that after a failure, beside the one of an earlier success.

    Raises:
        ValueError: no such notebook, or parameters that it does not know or of another kind; nothing was run.
        PermissionError: the folder cannot be written, or none for temporary files; nothing was run.
        JobError: a cell failed.
        JobStopped: SIGINT, SIGTERM, SIGHUP or SIGUSR1 came to this process, which passes it on to the notebook's, or
            to that one itself.
    """
    source, cwd = find(notebook), Path(cwd or ".").resolve()
    parameters = check(source, parameters or {})
    executed = Path(output).resolve() if output else cwd / _run_folder(source, parameters) / source.name
    expect_utf8({"folder": cwd, "output": executed})
    unfinished = executed.with_name(f"{executed.stem}{UNFINISHED}{executed.suffix}")
    if source in (executed, unfinished):
        raise ValueError(f"{source} would be overwritten by what it did; choose another output")
    writable(executed.parent)
    with silenced("papermill", "traitlets", "asyncio"), processes.at_home():
        _execute(source, unfinished, parameters, cwd, progress)
    return _finish(unfinished, executed)


def _finish(unfinished: Path, executed: Path) -> Path:
    if not unfinished.exists() and executed.exists():       # another one that did the same ended first
        return executed
    notebook = json.loads(unfinished.read_text(encoding="utf-8"))
    notebook["metadata"]["papermill"]["output_path"] = str(executed)
    _keep_pictures(notebook, executed)
    write_whole(executed, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    unfinished.unlink(missing_ok=True)
    return executed


def _keep_pictures(notebook: dict, executed: Path) -> None:
    """What a cell that shows nothing now showed before, when the job did the same: what is done is not done again."""
    try:
        before = json.loads(executed.read_text(encoding="utf-8"))
        if _asked(before) != _asked(notebook):
            return
        for old, new in zip(before["cells"], notebook["cells"], strict=True):
            if new["cell_type"] == "code" and not new["outputs"]:
                new["outputs"] = [one for one in old["outputs"] if one["output_type"] == "display_data"]
    except (OSError, ValueError, KeyError, TypeError):      # there is none, or somebody changed it
        return


def _asked(notebook: dict) -> tuple:
    """The parameters and the code of an executed notebook."""
    return notebook["metadata"]["papermill"]["parameters"], [cell["source"] for cell in notebook["cells"]]


class _Passed:
    """An output of this process as a notebook writes to it: closed or unable to say a letter, it ends no job."""

    def __init__(self, stream: Any):
        self.stream = stream

    def write(self, text: str) -> None:
        encoding = self.stream.encoding or "utf-8"
        with suppress(OSError, ValueError):
            self.stream.write(text.encode(encoding, "replace").decode(encoding))

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self.stream.flush()


def _execute(source: Path, executed: Path, parameters: dict, cwd: Path, progress: bool) -> None:
    import papermill
    from nbclient.exceptions import DeadKernelError

    kernels: list = []
    stopped = ""
    with _passed_on(kernels) as came:
        try:
            papermill.execute_notebook(
                _literal(source), _literal(executed), plain(parameters), cwd=cwd, kernel_name="python3",
                language="python", kernel_manager_class=_kernel_of_this_python(kernels), progress_bar=False,
                stdout_file=_Passed(sys.stdout) if progress else None,
                stderr_file=_Passed(sys.stderr) if progress else None, store_widget_state=False, coalesce_streams=True)
            return
        except papermill.PapermillExecutionError as error:
            line = _failed_line(error.traceback)
            what = f"cell [{error.exec_count}]{line} failed:\n{error.ename}: {error.evalue}"
            if stopped := {"Stopped": "SIGTERM", "KeyboardInterrupt": "SIGINT"}.get(error.ename, ""):
                what = error.evalue or f"stopped by {stopped}; run it again"
        except DeadKernelError:
            what = "its Python died without a message, as it does when memory runs out"
            if stopped := "".join(came[:1]):
                what = f"stopped by {stopped}; run it again"
    if stopped:
        raise JobStopped(source, executed, what, 130 if stopped == "SIGINT" else processes.AGAIN)
    raise JobError(source, executed, what)


@contextmanager
def _passed_on(kernels: list) -> Iterator[list[str]]:
    """Pass signals on to the kernel, which has a session of its own, and go on listening to it; yields their names.

    A second Ctrl-C ends this process.
    """
    came: list[str] = []

    def pass_on(number: int, _: object) -> None:
        name = signal.Signals(number).name
        if not kernels or (name == "SIGINT" and name in came):
            raise KeyboardInterrupt if name == "SIGINT" else processes.Stopped(f"stopped by {name}")
        came.append(name)
        with suppress(ProcessLookupError):
            os.kill(kernels[-1].provisioner.pid, number)

    with processes.handled(pass_on, unless_ignored=["SIGHUP"]) if os.name == "posix" else nullcontext():     # nohup
        yield came


def _failed_line(traceback: list[str]) -> str:
    """The line of the cell that failed, which IPython marks with an arrow in the first frame."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(traceback))
    marked = re.search(r"^-+> *\d+ (.*)$", plain, re.MULTILINE)
    return f", `{marked[1].strip()}`," if marked else ""


def _literal(path: Path) -> str:
    """The path so that papermill, which formats paths, leaves it as it is."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _kernel_of_this_python(started: list) -> type:
    """A kernel manager whose python3 is this interpreter, whatever the user's kernel of that name starts.

    Args:
        started: to which each manager adds itself once its kernel runs.
    """
    import zmq
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    class ThisPython(AsyncKernelManager):
        transport_encryption = "auto" if zmq.has("curve") else "disabled"
        kernel_spec = KernelSpec(**{**get_kernel_dict(), "argv": [
            sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}",
            "--log-level=CRITICAL"], "env": {"MPLBACKEND": PICTURES_IN_THE_NOTEBOOK}})

        async def _async_post_start_kernel(self, **settings: Any) -> None:
            await super()._async_post_start_kernel(**settings)
            started.append(self)

    return ThisPython


def _run_folder(source: Path, parameters: Mapping[str, Any]) -> Path:
    declared = parameters_of(source)
    # the `out` of an evaluation is a table, which may lie anywhere; a run that only answers is left as it is
    order = ("predictions", "run", "out") if "predictions" in declared else ("out", "run")
    named = [parameters.get(name) or declared[name].value for name in order if name in declared]
    # several runs have no folder of their own, and what is to be written may be a table
    found = Path(next((one for one in named if one and isinstance(one, str | Path)), Path("runs") / source.stem))
    return found.parent if found.suffix == ".csv" else found
