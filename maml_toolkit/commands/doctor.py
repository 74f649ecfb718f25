"""What is installed, what this machine offers and what does not work here, before somebody waits for a training.

    >>> problems(examine())
    []
"""

import importlib.metadata
import itertools
import os
import platform
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import typer
from packaging.requirements import Requirement

import maml_toolkit
from maml_toolkit.commands.shell import Json, as_printed, command
from maml_toolkit.system import processes
from maml_toolkit.system.errors import counted, few, with_extra
from maml_toolkit.system.showing import size

PACKAGE = "maml_toolkit"
PURPOSES = {
    "registration": "bring the scans of a case onto one grid",
    "dicom": "read DICOM series, write DICOM SEG",
    "view": "cases in three dimensions in a notebook",
    "itkwidgets": "the same in another viewer, which asks a network",
    "app": "the explorer as a page without code",
    "hub": "give models to huggingface.co and fetch them",
    "onnx": "networks for programs without torch",
    "tensorboard": "curves of a training in TensorBoard",
    "mlflow": "settings and curves of a training in MLflow",
    "bench": "time the peers beside it (make bench)",
    "docs": "build the documentation",
    "test": "run the tests",
}
"""Extra -> what for. An extra that is missing is no fault."""

HEADINGS = {"extras": "extras (none is needed)", "viewers": "viewers (one is enough)"}


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        about: packages, machine, extras or viewers.
        name: of what was looked at.
        found: what is there, as text.
        wrong: what is wrong with something required; empty where nothing is.
        note: what to do about it; the range that is declared; what an option is for.
    """

    about: str
    name: str
    found: str
    wrong: str = ""
    note: str = ""


@command("doctor")
def look_at_this_machine(
    as_json: Json = False,
) -> int:
    """Say what is installed, what this machine offers and what does not work; the exit status is 1 if it matters."""
    found = examine()
    if as_json:
        as_printed([asdict(one) for one in found])
    else:
        typer.echo(text(found))
    return int(bool(problems(found)))


def examine() -> list[Finding]:
    """Everything that was looked at; nothing is installed, written or asked of a network."""
    return [*packages(), *machine(), *extras(), *viewers()]


def problems(findings: Iterable[Finding]) -> list[Finding]:
    """Those that keep the package from working."""
    return [one for one in findings if one.wrong]


def text(findings: Sequence[Finding]) -> str:
    """The findings as a table, and how many problems there are."""
    lines = []
    for about, ones in itertools.groupby(findings, lambda one: one.about):
        ones = list(ones)
        name, found = (max(len(getattr(one, column)) for one in ones) for column in ("name", "found"))
        lines += ["", HEADINGS.get(about, about)]
        for one in ones:
            said = "; ".join(filter(None, (one.wrong and f"WRONG: {one.wrong}", one.note)))
            lines.append(f"  {one.name:<{name}}  {one.found:<{found}}  {said}".rstrip())
    wrong = len(problems(findings))
    return "\n".join([*lines[1:], "", f"{counted(wrong, 'problem') if wrong else 'no problems'} found"])


def packages() -> Iterator[Finding]:
    """Python, this package and every package that it needs, each against the range that it declares."""
    try:
        metadata = importlib.metadata.metadata(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", PACKAGE, maml_toolkit.__version__, "imported from a folder, not installed",
                      'install it: pip install -e ".[test]" in its checkout')
        return
    same = metadata["Version"] == maml_toolkit.__version__
    yield Finding("packages", PACKAGE, maml_toolkit.__version__,
                  "" if same else f"{metadata['Version']} is installed, another is imported",
                  "" if same else "install the one that is imported: pip install -e . in its checkout")
    python = Requirement(f"python{metadata['Requires-Python'] or ''}")
    for one in (python, *requirements()):
        found = platform.python_version() if one is python else processes.installed(one.name)
        remedy = (f"make the environment with Python {one.specifier}" if one is python else
                  f'install it: pip install "{one.name}{one.specifier}"')
        yield Finding("packages", one.name, found or "-", wrong := unfit(one, found),
                      remedy if wrong else str(one.specifier))


def requirements(extra: str = "") -> list[Requirement]:
    """What the installed package declares that it needs, or that an extra needs beside it, on this machine."""
    declared = map(Requirement, importlib.metadata.requires(PACKAGE) or ())
    return [one for one in declared if (not one.marker or one.marker.evaluate({"extra": extra}))
            and bool(extra) == ("extra" in str(one.marker or ""))]


def unfit(requirement: Requirement, found: str) -> str:
    """Why a version is not what is required; nothing where it is."""
    if not found:
        return "not installed"
    return "" if requirement.specifier.contains(found, prereleases=True) else "out of range"


def machine() -> Iterator[Finding]:
    """Devices, cores, memory, disk, and where libraries keep their files."""
    yield from devices()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("machine", "cores", f"{cores} of {os.cpu_count()}")
    free, allowed = processes.free_memory()
    yield Finding("machine", "memory", f"{size(free)} free of {size(allowed)}",
                  note="little for training: small patches, batch_size=1" if free < 4e9 else "")
    own = processes.home_folder()
    yield Finding("machine", "home", str(own or "-"), note="" if processes.is_writable(own) else
                  "it cannot be written: jobs use a temporary one; set HOME to a folder to keep settings")
    try:
        yield Finding("machine", "temporary files", processes.temporary_files())
    except PermissionError:
        yield Finding("machine", "temporary files", "-", "no folder for them can be written",
                      "set TMPDIR to a folder that can")
    disk = shutil.disk_usage(".")
    yield Finding("machine", "disk here", f"{size(disk.free)} free of {size(disk.total)}",
                  note="little for the cache of a data set" if disk.free < 5e9 else "")


def devices() -> Iterator[Finding]:
    """What torch computes on, and how."""
    try:
        import torch

        from maml_toolkit.system.machine import choose_device, choose_precision
    except (ImportError, OSError) as error:
        yield Finding("machine", "torch", "-", f"cannot be imported: {error}",
                      "install it again, a build for this machine")
        return
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        yield Finding("machine", f"cuda:{number}", f"{card.name}, {size(card.total_memory)}")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        yield Finding("machine", "cuda", "none", note=f"torch is built for CUDA {built}; is the driver installed?"
                      if built else "torch is built for CPUs; a GPU needs another build")
    device = choose_device()
    yield Finding("machine", "device chosen", f"{device.type}, {str(choose_precision(device)).removeprefix('torch.')}")
    yield Finding("machine", "threads of torch", str(torch.get_num_threads()))


def extras() -> Iterator[Finding]:
    """Every option of the installation, whether it is there, what it is for."""
    try:
        names = importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for name in sorted(names):
        lacking = [one.name for one in requirements(name)
                   if one.name != PACKAGE and unfit(one, processes.installed(one.name))]
        install = f": {with_extra(name)}" if lacking else ""
        yield Finding("extras", name, f"lacks {few(lacking, 2)}" if lacking else "installed",
                      note=f"{PURPOSES.get(name, '')}{install}")


def viewers() -> Iterator[Finding]:
    """The viewers of scans, and why one does not work here."""
    try:
        from maml_toolkit.pictures.widgets import backends
    except ImportError:      # a required package is missing, and is reported as such
        return
    for name, reason in backends.available().items():
        yield Finding("viewers", name, "does not work here" if reason else "works", note=reason)
