"""Runs a notebook as a job: looks it up, refuses parameters that it does not know, keeps what it wrote.

A job is a notebook with one cell tagged `parameters`. Papermill runs it with other values, cell by cell, and
the executed notebook (with every picture, and the traceback where a cell failed) is the record of the job. Until
its end it is called `<name>.unfinished.ipynb`.

References:
    Papermill, https://papermill.readthedocs.io
"""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import signal
import sys
import threading
import tokenize
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from maml_toolkit.system import signals
from maml_toolkit.system.errors import nearest, shown
from maml_toolkit.system.files import writable, write_whole
from maml_toolkit.system.home import at_home
from maml_toolkit.system.parameters import fitted, from_text, kind_of

FOLDERS = ("notebooks", "tutorials")
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


@dataclass(frozen=True)
class Parameter:
    """What a notebook says about one of its parameters.

    Attributes:
        default: as it is written in the notebook.
        help: the comment beside it.
        kind: its annotation (parameters.py); empty where it has none, and takes whatever it is given.
    """

    name: str
    default: str
    help: str
    kind: str = ""

    @property
    def value(self) -> Any:
        """The default as a value; None where it is computed."""
        try:
            return ast.literal_eval(self.default)
        except ValueError:
            return None


def find(notebook: str | Path) -> Path:
    """The notebook with this path or name, its number left out or not: "train" finds notebooks/2-train.ipynb.

    Names are looked up in the package, then beside it (a checkout), then in the current folder.

    Raises:
        ValueError: there is no such notebook; the nearest name is suggested.
    """
    if Path(notebook).suffix == ".ipynb" and Path(notebook).is_file():
        return Path(notebook).resolve()
    known: dict[str, Path] = {}
    for path in _notebooks():
        known.setdefault(path.stem, path)
        known.setdefault(_without_number(path.stem), path)
    name = Path(notebook).name.removesuffix(".ipynb")
    if name in known and Path(notebook).parent == Path():
        return known[name]
    names = ", ".join(sorted({path.stem for path in known.values()})) or "none, there are none here"
    raise ValueError(f"found no notebook {str(notebook)!r}{nearest(name, known)}, expected a path or "
                     f"one of: {names}")


def parameters_of(notebook: str | Path) -> dict[str, Parameter]:
    """The parameters that a notebook declares in its cell tagged `parameters`, in their order."""
    import nbformat

    cells = nbformat.read(find(notebook), as_version=4).cells
    source = next((cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])), "")
    comments = {token.start[0]: token.string.lstrip("# ") for token in
                tokenize.generate_tokens(StringIO(source).readline) if token.type == tokenize.COMMENT}
    found = {}
    for line in ast.parse(source).body:
        target = line.targets[0] if isinstance(line, ast.Assign) else getattr(line, "target", None)
        if isinstance(target, ast.Name) and line.value is not None:
            default = ast.get_source_segment(source, line.value) or ""
            kind = kind_of(getattr(line, "annotation", None))
            found[target.id] = Parameter(target.id, default, comments.get(line.end_lineno, ""), kind)
    return found


def typed(text: str, parameter: Parameter | None = None) -> Any:
    """A value written on a command line, of the kind that the parameter is said to be.

    Where nothing is said it is what it looks like: `3`, `0.5`, `1e-4`, `true`, `null`, `[a, b]`; anything else is text.
    A case is often called 00006: numbers with leading zeros stay text, and so does every number where the
    parameter's default is text. Where the default is a list, `8 16 32`, `a,b` and `3` are lists too.

    Raises:
        ValueError: it is of another kind.
    """
    import yaml

    if shown(text) != text:                             # not UTF-8: `check` says so
        return text
    if parameter is not None and parameter.kind:
        with _named(parameter.name):
            return from_text(text, parameter.kind, lambda one: yaml.load(one, _values()))
    value = yaml.load(text, _values())
    if parameter is not None and isinstance(parameter.value, str) and not isinstance(value, list | dict):
        return text
    if parameter is not None and isinstance(parameter.value, list) and isinstance(value, str | int | float):
        quoted = text.lstrip().startswith(("'", '"'))
        return [value] if quoted or isinstance(value, bool) else [typed(word) for word in re.findall(r"[^,\s]+", text)]
    return value


def check(notebook: str | Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as the notebook wants them: ids and paths as text, one value for a list as a list of it.

    Raises:
        ValueError: it does not declare some of them, which are named with their nearest matches, and every parameter
            known with its default; or one is of another kind, or not UTF-8.
    """
    _expect_utf8(parameters)
    known = parameters_of(notebook)
    if unknown := [name for name in parameters if name not in known]:
        named = ", ".join(f"{name!r}{nearest(name, known)}" for name in unknown)
        listed = "\n".join(f"  {one.name} = {one.default}" for one in known.values()) or "  none"
        raise ValueError(f"{find(notebook).name} has no parameter {named}. Its parameters are:\n{listed}")
    values = dict(parameters)
    for name, value in parameters.items():
        if known[name].kind and not (value is None and known[name].value is None):
            with _named(name):
                values[name] = fitted(value, known[name].kind)
    return values


@contextmanager
def _named(parameter: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"--{parameter}: {error}") from None


def _expect_utf8(values: Mapping[str, Any]) -> None:
    """Nothing, if a notebook, which is JSON, can hold these values."""
    if unsaid := [f"{name} {shown(value)}" for name, value in values.items() if shown(value) != str(value)]:
        raise ValueError(f"found the {', '.join(unsaid)}, which is not UTF-8 and cannot stand in a notebook; rename "
                         "the folder or file, or make a link to it with another name")


def run(notebook: str | Path, output: str | Path | None = None, parameters: Mapping[str, Any] | None = None,
        *, cwd: str | Path | None = None, progress: bool = True, timeout_s: float | None = None) -> Path:
    """Runs a notebook from its first cell to its last, in this Python, and writes down what it did.

    Args:
        notebook: a path or a name, see `find`.
        output: the executed notebook. When left out it goes into the folder of the job (its parameter `predictions`,
            `run` or `out`), or into runs/<name>/ where it has none.
        parameters: values that replace the notebook's own.
        cwd: the folder in which it runs; the current one when left out.
        progress: pass what the notebook prints and its progress bars on to this process's output.
        timeout_s: the longest that one cell may take; unlimited when left out.

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
    _expect_utf8({"folder": cwd, "output": executed})
    unfinished = executed.with_name(f"{executed.stem}{UNFINISHED}{executed.suffix}")
    if source in (executed, unfinished):
        raise ValueError(f"{source} would be overwritten by what it did; choose another output")
    writable(executed.parent)
    with _quiet("papermill", "traitlets", "asyncio"), at_home():
        _execute(source, unfinished, parameters, cwd, progress, timeout_s)
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


def _execute(source: Path, executed: Path, parameters: dict, cwd: Path, progress: bool,
             timeout_s: float | None) -> None:
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    kernels: list = []
    stopped = ""
    with _passed_on(kernels) as came:
        try:
            papermill.execute_notebook(
                _literal(source), _literal(executed), plain(parameters), cwd=cwd, kernel_name="python3",
                language="python", kernel_manager_class=_kernel_of_this_python(kernels), progress_bar=False,
                stdout_file=_Passed(sys.stdout) if progress else None,
                stderr_file=_Passed(sys.stderr) if progress else None, store_widget_state=False, coalesce_streams=True,
                execution_timeout=timeout_s)
            return
        except papermill.PapermillExecutionError as error:
            line = _failed_line(error.traceback)
            what = f"cell [{error.exec_count}]{line} failed:\n{error.ename}: {error.evalue}"
            if stopped := {"Stopped": "SIGTERM", "KeyboardInterrupt": "SIGINT"}.get(error.ename, ""):
                what = error.evalue or f"stopped by {stopped}; run it again"
        except CellTimeoutError:
            what = f"a cell took longer than the {timeout_s:g} s allowed"
        except DeadKernelError:
            what = "its Python died without a message, as it does when memory runs out"
            if stopped := "".join(came[:1]):
                what = f"stopped by {stopped}; run it again"
    if stopped:
        raise JobStopped(source, executed, what, 130 if stopped == "SIGINT" else signals.AGAIN)
    raise JobError(source, executed, what)


@contextmanager
def _passed_on(kernels: list) -> Iterator[list[str]]:
    """Pass signals on to the kernel, which has a session of its own, and go on listening to it; yields their names.

    A second Ctrl-C ends this process.
    """
    came: list[str] = []
    before = {}

    def pass_on(number: int, _: object) -> None:
        name = signal.Signals(number).name
        if not kernels or (name == "SIGINT" and name in came):
            raise KeyboardInterrupt if name == "SIGINT" else signals.Stopped(f"stopped by {name}")
        came.append(name)
        with suppress(ProcessLookupError):
            os.kill(kernels[-1].provisioner.pid, number)

    try:
        if threading.current_thread() is threading.main_thread() and os.name == "posix":
            for name in signals.NAMES:
                if name != "SIGHUP" or signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:      # nohup
                    before[name] = signal.signal(getattr(signal, name), pass_on)
        yield came
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


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


def _notebooks() -> Iterator[Path]:
    package = Path(__file__).parents[1]
    for folder in (package, package.parent, Path.cwd()):
        for name in FOLDERS:
            yield from sorted((folder / name).glob("*.ipynb"))


def _without_number(stem: str) -> str:
    return re.sub(r"^\d+-", "", stem)


def _run_folder(source: Path, parameters: Mapping[str, Any]) -> Path:
    declared = parameters_of(source)
    named = [parameters.get(name) or declared[name].value for name in ("predictions", "run", "out") if name in declared]
    return Path(next(filter(None, named), None) or Path("runs") / source.stem)


def plain(value: Any) -> Any:
    """The value as papermill can write it into a cell."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _values() -> type:
    """YAML 1.2's idea of numbers; 1.1 takes 00006 for a six, 1e-4 for text and `no` for false."""
    import yaml

    class Values(yaml.SafeLoader):
        yaml_implicit_resolvers: dict = {}  # noqa: RUF012 - the loader's own way

    patterns = {"null": r"null|None|~|", "bool": r"true|True|false|False", "int": r"[-+]?(0|[1-9]\d*)",
                "float": r"[-+]?(\.\d+|(0|[1-9]\d*)(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.inf|\.nan"}
    for tag, pattern in patterns.items():
        Values.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), None)
    return Values


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Silences the chatter of loggers: what goes wrong is raised."""
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
