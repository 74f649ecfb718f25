"""What lies in a folder: images, what may be images and cannot be read, and what is ignored.

Nothing is left out without a word: an entry is named like NIfTI, or ignored by a rule that has a name, or something
that a person should look at. Links to folders are followed, but for those that lead back.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from maml_toolkit.data import nifti
from maml_toolkit.data.case import composed
from maml_toolkit.system.errors import DataError, collected, unless

IGNORED_FOLDERS = {
    "hidden folders": r"\..*",
    "of the operating system folders": r"__macosx|@eadir|lost\+found|\$recycle\.bin|system volume information",
}
IGNORED_FILES = {
    "hidden files": r"\..*",
    "of the operating system files": r"thumbs\.db|desktop\.ini|icon\r",
    "sidecars": r".*\.(json|bvals?|bvecs?|ya?ml|toml)",
    "checksums": r".*\.(md5|sha1|sha256|sha512)|(md5|sha\d+)sums?",
    "tables": r".*\.([ct]sv|xlsx?|ods)",
    "texts": r".*\.(txt|md|rst|pdf|docx?|odt|rtf|html?|xml|log|cff|bib)|(readme|licen[cs]e|change|citation|notes)[^.]*",
    "pictures": r".*\.(png|jpe?g|gif|bmp|svg|webp)",
    "programs": r".*\.(py|m|r|sh|bat|ipynb)",
    "transforms": r".*\.(tfm|xfm|lta)",
    "models": r".*\.(safetensors|onnx|pth?|ckpt)",
}
"""Rule -> the lower-case names of what it ignores."""

OWN = {
    "predictions": (r"prediction\.json", r".+_prob\.nii\.gz|labels\.nii\.gz"),
    "prepared arrays": (r"case\.json", r"foreground\.npy"),
    "runs": (r"settings\.json", "checkpoints"),
}
"""What the toolkit itself writes -> names that all lie in such a folder."""

SIMPLEITK = "SimpleITK.WriteImage(SimpleITK.ReadImage(old), new) does it"
NIBABEL = "nibabel.save(nibabel.Nifti1Image.from_image(nibabel.load(old)), new) does it"
DICOM = "`python -m maml_toolkit dicom` does it"
FORMATS = {
    **dict.fromkeys((".nrrd", ".nhdr", ".mha", ".mhd", ".gipl", ".vtk", ".tif", ".tiff"), SIMPLEITK),
    **dict.fromkeys((".img", ".hdr", ".mgz", ".mgh", ".mnc", ".brik", ".head", ".par", ".rec"), NIBABEL),
    **dict.fromkeys((".dcm", ".dicom", ".ima"), DICOM),
    **dict.fromkeys((".raw", ".zraw", ".npy", ".npz", ".h5", ".hdf5"), "nibabel.Nifti1Image makes one from an array"),
}
"""How the names of images end that are not NIfTI -> what converts them."""

PARTNERS = {".hdr": ".img", ".raw": ".mhd", ".zraw": ".mhd", ".head": ".brik", ".rec": ".par"}
"""An image in two files is named once, after the second ending."""

PACKED = re.compile(r"(.+?)(\.nii(\.gz)?[^/]*|\.(zip|tar|tgz|tar\.\w+|7z|rar|bz2|xz|gz))", re.IGNORECASE)
"""A NIfTI file whose name goes on, as that of an unfinished download does, or an archive."""


@dataclass
class Foreign:
    """A file that may be a scan and is none that can be read.

    Attributes:
        stem: its name without what says its format.
        what, remedy: what it is, what to do.
        count: how many of this kind lie in its folder, if they are told together.
    """

    path: Path
    stem: str
    what: str
    remedy: str
    count: int = 1


@dataclass
class Contents:
    """What lies in a folder and in those below it.

    Attributes:
        images: folder -> what is named like NIfTI in it, sorted, whether it can be read or not.
        foreign: what may be a scan and cannot be read.
        unknown: files of which nothing is known.
        ignored: rule -> how many entries it ignored; a folder is one.
        problems: folders that cannot be read, links that lead to nothing or back.
    """

    images: dict[Path, list[Path]] = field(default_factory=dict)
    foreign: list[Foreign] = field(default_factory=list)
    unknown: list[Path] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    problems: list[DataError] = field(default_factory=list)


def contents(source: Path) -> Contents:
    """Everything in a folder, however deep."""
    found = Contents()
    _look_into(source, found, ())
    return found


def stem(path: Path) -> str | None:
    """The file's name without .nii or .nii.gz, `composed`; None for other files."""
    match = re.fullmatch(r"(.+?)\.nii(\.gz)?", composed(path.name), re.IGNORECASE)
    return match and match[1]


def foreign(path: Path) -> Foreign | None:
    """What a file is that may hold a scan in a way that is not read here; None for others. Its name tells."""
    name = path.name.removeprefix(".")
    for ending in (path.suffix.lower(), "".join(path.suffixes[-2:]).lower().removesuffix(".gz")):
        if how := FORMATS.get(ending):
            bare = re.sub(rf"{re.escape(ending)}(\.gz)?$", "", path.name, flags=re.IGNORECASE)
            return Foreign(path, bare, f"a {ending} file, a format that is not read here",
                           f"Convert it to NIfTI ({how}), or move it away.")
    if stem(path) is None and (packed := PACKED.fullmatch(name)):
        is_archive = ".nii" not in name.lower()
        return Foreign(path, packed[1], f"{'an archive' if is_archive else 'a NIfTI file whose name goes on'}, "
                       f"{packed[2]}, which is not read", "Unpack it, or move it away." if is_archive else
                       "Finish the copy or the download, or unpack it, so that its name ends in .nii or .nii.gz; or "
                       "move it away.")
    return None


def listed(folder: Path) -> list[Path]:
    """What the folder holds, sorted.

    Raises:
        DataError: the folder cannot be read.
    """
    with unless("the folder cannot be read", "Look at its permissions.", folder), os.scandir(folder) as entries:
        return [folder / name for name in sorted(entry.name for entry in entries)]


def visible(folder: Path) -> list[Path]:
    """What `listed` gives without hidden files and macOS's `._` companions."""
    return [path for path in listed(folder) if not path.name.startswith(".")]


def is_ignored(path: Path) -> bool:
    """Whether a file is known to be no scan."""
    return _rule(path, IGNORED_FILES) is not None


def _rule(path: Path, rules: Mapping[str, str]) -> str | None:
    return next((rule for rule, pattern in rules.items() if re.fullmatch(pattern, path.name.lower())), None)


def _look_into(folder: Path, found: Contents, above: tuple[str, ...]) -> None:
    real, paths = os.path.realpath(folder), []
    with collected(found.problems, folder.name if above else None):
        if real in above:
            raise DataError("found a link that leads back to a folder in which it lies", "Remove the link.",
                            path=folder)
        paths = listed(folder)
    names = {path.name for path in paths}
    if above and (own := next((rule for rule, marks in OWN.items() if all(
            any(re.fullmatch(mark, name) for name in names) for mark in marks)), None)):
        found.ignored[f"{own} of the toolkit"] += 1
        return
    images, slices = found.images.setdefault(folder, []), []
    for path in paths:
        is_image = stem(path) is not None and not path.name.startswith(".")
        if is_image:                                    # a folder of such a name too
            images.append(path)
        if path.is_dir():
            if rule := _rule(path, IGNORED_FOLDERS):
                found.ignored[rule] += 1
            else:
                _look_into(path, found, (*above, real))
        elif not is_image and _is_slice(path):
            slices.append(path)
        elif not is_image:
            _sort(path, names, found, folder.name if above else path.name)
    if slices:
        found.foreign.append(Foreign(slices[0], folder.name, "DICOM files, a format that is not read here",
                                     f"Convert them to NIfTI ({DICOM}), or move them away.", len(slices)))


def _sort(path: Path, beside: set[str], found: Contents, case: str) -> None:
    """A file that is not named like NIfTI, into one of the other drawers."""
    rule, other = _rule(path, IGNORED_FILES), foreign(path)
    is_scan = ".nii" in path.name.lower() and rule in ("hidden files", "texts") and not path.name.startswith("._")
    if rule and not is_scan:
        found.ignored[rule] += 1
    elif not path.exists():
        with collected(found.problems, case):
            nifti.expect_file(path)
    elif other is None:
        found.unknown.append(path)
    elif f"{other.stem}{PARTNERS.get(path.suffix.lower(), '/')}".lower() not in map(str.lower, beside):
        found.foreign.append(other)                     # else it is told with its partner


def _is_slice(path: Path) -> bool:
    """Whether a file that no rule ignores is DICOM, by its name or its first bytes."""
    if is_ignored(path) or not path.is_file():          # a pipe would be waited for
        return False
    if other := foreign(path):
        return DICOM in other.remedy
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
