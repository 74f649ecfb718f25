"""The mark of a scan that is simulated: it stays with it wherever it is written."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
from nibabel.nifti1 import Nifti1Header

from maml_toolkit.data import nifti
from maml_toolkit.data.volumes import Frame, Source, path_of

MARK = "simulated"
"""In the header, or in the name of the file, of everything that is."""


def mark_of(source: Source) -> str:
    """What the header of a scan, or the name of its file, says about its being simulated; nothing for a real scan.

    Raises:
        DataError: the header cannot be read.
    """
    file = source.path if isinstance(source, Frame) else source
    header = file.header if isinstance(file, nib.Nifti1Image) else nifti.header_of(file)
    return mark_in(header, path_of(source))


def mark_in(header: Nifti1Header, path: Path | str | None) -> str:
    """The mark in a header or, where that has none, in the name of its file."""
    if MARK in (said := described(header)).lower():
        return said
    return ": ".join(filter(None, (MARK, said))) if MARK in Path(path or "").name.lower() else ""


def described(header: Nifti1Header) -> str:
    """The field `descrip` of a header."""
    return bytes(header["descrip"]).rstrip(b"\0").decode(errors="replace")
