"""From a case's files to arrays that a network reads: one orientation, one box, one spacing, normalised, cached.

    canonical orientation (RAS+) -> crop to the box of non-zero voxels of all its modalities (MR)
    -> per modality clip to the 0.5 and 99.5 percentile, zero mean, unit variance
       (MR: inside that modality's own non-zero mask, 0 outside; CT: whole volume)
    -> resample to the task's spacing (images linear with an anti-aliasing filter, labels nearest)

Orientation, box and spacing belong to the case, never to the modalities that are used of it, so answers from
different subsets lie on one grid. `Grid` remembers the way back.

References:
    Modality-aware Mutual Learning for Multi-modal Medical Image Segmentation, Zhang et al., MICCAI 2021,
    https://arxiv.org/abs/2107.09842 (clipping and normalisation)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import nibabel
import numpy as np
import torch
import torchio
from nibabel import orientations
from tqdm.auto import tqdm

from maml_toolkit.data import volumes
from maml_toolkit.data.cases import Case, Source
from maml_toolkit.errors import DataError
from maml_toolkit.tasks import Task

PERCENTILES = (0.5, 99.5)
FOREGROUND_KEPT = 10_000
"""Voxels of each class remembered to centre patches on."""


@dataclass(frozen=True)
class Grid:
    """Where the working arrays of a case lie in its files, and the way back.

    Attributes:
        shape, affine: of the file's grid, axes as in the file; affine in mm (RAS+).
        box: first and last + 1 voxel on each axis, in the file's voxels after turning to RAS+.
        working_shape: of the arrays that the network sees, axes left-right, posterior-anterior, inferior-superior.
    """

    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    box: tuple[tuple[int, int], ...]
    working_shape: tuple[int, int, int]

    @cached_property
    def _orientation(self) -> np.ndarray:
        return orientations.io_orientation(np.array(self.affine))

    @property
    def canonical_shape(self) -> tuple[int, ...]:
        """The file's shape after turning to RAS+."""
        return tuple(int(self.shape[axis]) for axis in np.argsort(self._orientation[:, 0]))

    @property
    def box_shape(self) -> tuple[int, ...]:
        """Voxels of the box on each axis, at the file's spacing."""
        return tuple(stop - start for start, stop in self.box)

    @cached_property
    def box_affine(self) -> np.ndarray:
        """Affine of the box at the file's spacing."""
        turned = np.array(self.affine) @ orientations.inv_ornt_aff(self._orientation, self.shape)
        return turned @ nibabel.affines.from_matvec(np.eye(3), [start for start, _ in self.box])

    @cached_property
    def working_affine(self) -> np.ndarray:
        """Affine of the working arrays, which fill the same box with voxels of another size."""
        step = np.divide(self.box_shape, self.working_shape)
        return self.box_affine @ nibabel.affines.from_matvec(np.diag(step), (step - 1) / 2)

    @property
    def file_spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size of the files, on their own axes."""
        return tuple(float(mm) for mm in nibabel.affines.voxel_sizes(np.array(self.affine)))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size of the working arrays."""
        return tuple(float(mm) for mm in nibabel.affines.voxel_sizes(self.working_affine))

    def to_working(self, array: np.ndarray, label: bool = False) -> np.ndarray:
        """An array on the box, turned to RAS+, resampled to the working grid."""
        return resampled(array, self.box_affine, self.working_shape, self.working_affine, label)

    def to_box(self, array: np.ndarray) -> np.ndarray:
        """Working values (…, depth, height, width) resampled to the file's spacing, still cropped and in RAS+."""
        return resampled(array, self.working_affine, self.box_shape, self.box_affine)

    def to_file(self, array: np.ndarray, outside: float = 0) -> np.ndarray:
        """What `to_box` returned, pasted into the file's whole grid and turned to the file's axes.

        Args:
            array: (…, box).
            outside: value of the voxels that were cropped away.
        """
        leading = array.shape[:-3]
        whole = np.full((*leading, *self.canonical_shape), outside, array.dtype)
        whole[(..., *self.box_slices)] = array
        # the leading axes go last, because nibabel turns the first three
        turned = orientations.apply_orientation(
            np.moveaxis(whole, range(len(leading)), range(3, whole.ndim)),
            orientations.ornt_transform(orientations.axcodes2ornt("RAS"), self._orientation))
        return np.ascontiguousarray(np.moveaxis(turned, range(3, whole.ndim), range(len(leading))))

    @property
    def box_slices(self) -> tuple[slice, ...]:
        """The box as slices of the file's array after turning to RAS+."""
        return tuple(slice(*edges) for edges in self.box)


@dataclass(frozen=True)
class PreparedCase:
    """A case as the network reads it.

    Attributes:
        id: of the case.
        images: normalised float32 arrays by modality, all of the grid's working shape.
        labels: class of each voxel (uint8), or None for a case without label.
        foreground: rows of (class, voxel on each axis): some voxels of each foreground class.
        grid: the way back to the file's grid.
    """

    id: str
    images: dict[str, np.ndarray]
    labels: np.ndarray | None
    foreground: np.ndarray
    grid: Grid


def prepare(case: Case, task: Task) -> PreparedCase:
    """Read, check and preprocess one case; every modality that it has.

    Raises:
        DataError: a file that cannot be used, modalities on different grids, unknown label values.
    """
    if not case.images:
        raise DataError(f"found no modality, expected some of {', '.join(task.modalities)}",
                        "Check the folder or the row of this case.", case=case.id)
    scans = {name: volumes.read(case.images[name], case=case.id, modality=name)
             for name in task.modalities if name in case.images}
    first = next(iter(scans.values()))
    label = None if case.label is None else volumes.read_label(case.label, case=case.id)
    for name, scan in [*scans.items(), *([("label", label)] if label else [])]:
        if difference := volumes.grid_difference(first, scan):
            source = case.label if scan is label else case.images[name]
            raise DataError(f"{difference} of {next(iter(scans))}; expected one grid",
                            "Register the modalities, or resample them onto one grid.",
                            case=case.id, modality=name, path=path_of(source))
    turn = orientations.io_orientation(first.affine)
    turned = {name: orientations.apply_orientation(scan.array, turn) for name, scan in scans.items()}
    # CT has a signal everywhere: air is not zero
    cropped = list(turned.values()) if set(task.intensities.values()) == {"mr"} else []
    box = nonzero_box(cropped, next(iter(turned.values())).shape)
    spacing = task.spacing_mm or tuple(nibabel.affines.voxel_sizes(first.affine)[np.argsort(turn[:, 0])])
    grid = grid_of(first, box, spacing)
    images = {name: grid.to_working(normalised(array[grid.box_slices], task.intensities[name]))
              for name, array in turned.items()}
    classes = None
    if label is not None:
        try:
            encoded = task.encode(orientations.apply_orientation(label.array, turn)[grid.box_slices])
        except DataError as error:
            raise DataError(error.problem, error.remedy, case=case.id, path=path_of(case.label)) from None
        classes = grid.to_working(encoded, label=True)
    return PreparedCase(case.id, images, classes, foreground_voxels(classes), grid)


def grid_of(scan: volumes.Volume, box: tuple, spacing_mm: Sequence[float]) -> Grid:
    """The grid that fills this box of a scan with voxels as near to the spacing as whole numbers allow."""
    affine = tuple(tuple(float(value) for value in row) for row in scan.affine)
    sizes = nibabel.affines.voxel_sizes(scan.affine)[np.argsort(orientations.io_orientation(scan.affine)[:, 0])]
    working = tuple(max(1, round((stop - start) * float(mm) / wanted))
                    for (start, stop), mm, wanted in zip(box, sizes, spacing_mm, strict=True))
    return Grid(tuple(int(n) for n in scan.array.shape), affine, tuple((int(a), int(b)) for a, b in box), working)


def nonzero_box(arrays: Sequence[np.ndarray], shape: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """First and last + 1 voxel on each axis where any array is not zero; the whole shape where none is."""
    box = []
    for axis, size in enumerate(shape):
        others = tuple({0, 1, 2} - {axis})
        hit = np.flatnonzero(np.any([array.any(axis=others) for array in arrays], axis=0)) if arrays else []
        box.append((int(hit[0]), int(hit[-1]) + 1) if len(hit) else (0, int(size)))
    return tuple(box)


def normalised(array: np.ndarray, intensities: str) -> np.ndarray:
    """The paper's normalisation: clipped to the percentiles, zero mean, unit variance.

    Args:
        array: one modality.
        intensities: "mr": statistics over the non-zero voxels, zero elsewhere; "ct": over all voxels.
    """
    mask = array != 0 if intensities == "mr" else np.ones(array.shape, bool)
    values = array[mask]
    if not values.size:
        return np.zeros(array.shape, np.float32)
    values = np.clip(values, *np.percentile(values, PERCENTILES))
    result = np.zeros(array.shape, np.float32)
    result[mask] = (values - values.mean(dtype=np.float64)) / max(values.std(dtype=np.float64), 1e-8)
    return result


def resampled(array: np.ndarray, affine: np.ndarray, shape: Sequence[int], target: np.ndarray,
              label: bool = False) -> np.ndarray:
    """Values (…, depth, height, width) on one grid as values on another; the same array where the grids agree."""
    if array.shape[-3:] == tuple(shape) and np.allclose(affine, target):
        return array
    image = torchio.LabelMap if label else torchio.ScalarImage
    flat = torch.from_numpy(np.ascontiguousarray(array).reshape(-1, *array.shape[-3:]))
    move = torchio.Resample((tuple(shape), target), antialias=True)
    return move(image(tensor=flat, affine=affine)).numpy().reshape(*array.shape[:-3], *shape)


def foreground_voxels(labels: np.ndarray | None) -> np.ndarray:
    """Rows of (class, voxel on each axis), at most FOREGROUND_KEPT a class, the same ones for the same labels."""
    rows = [np.zeros((0, 4), np.int32)]
    random = np.random.default_rng(0)
    for one in np.setdiff1d(np.unique(labels), [0]) if labels is not None else []:
        voxels = np.argwhere(labels == one)
        if len(voxels) > FOREGROUND_KEPT:
            voxels = voxels[np.sort(random.choice(len(voxels), FOREGROUND_KEPT, replace=False))]
        rows.append(np.insert(voxels, 0, one, axis=1).astype(np.int32))
    return np.concatenate(rows)


def with_spacing(task: Task, cases: Sequence[Case]) -> Task:
    """The task with a spacing: its own, or the median over the cases on each axis (RAS+ order), as nnU-Net does."""
    if task.spacing_mm is not None:
        return task
    spacings = []
    for case in cases:
        name = next(one for one in task.modalities if one in case.images)
        _, affine = volumes.read_header(case.images[name], case=case.id, modality=name)
        order = np.argsort(orientations.io_orientation(affine)[:, 0])
        spacings.append(nibabel.affines.voxel_sizes(affine)[order])
    return task.with_spacing([round(float(mm), 4) for mm in np.median(spacings, axis=0)])


def prepare_all(cases: Sequence[Case], task: Task, cache: Path | str | None = None,
                workers: int = 2) -> list[PreparedCase]:
    """Prepare every case, several at a time, from the cache where it still fits; a bar shows the progress.

    Args:
        cases, task: what to prepare.
        cache: a folder in which arrays are kept as .npy files, from which a patch is read without reading
            the volume; None keeps them in memory.
        workers: threads.

    Raises:
        DataError: every case that cannot be prepared, all together.
    """
    one = prepare if cache is None else lambda case, task: cached(case, task, Path(cache))
    results, errors = [], []
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(one, case, task) for case in cases]
        for future in tqdm(futures, desc="preparing cases", unit="case", delay=2):
            try:
                results.append(future.result())
            except DataError as error:
                errors.append(error)
    if errors:
        raise DataError.together(errors)
    return results


def cached(case: Case, task: Task, cache: Path) -> PreparedCase:
    """A case prepared once and kept in a folder of the cache; made again when its files or the task change."""
    folder, key = cache / case.id, cache_key(case, task)
    try:
        return opened(folder, key)
    except (OSError, ValueError, KeyError):
        prepared = prepare(case, task)
    temporary = cache / f".writing-{case.id}-{os.getpid()}"
    try:
        temporary.mkdir(parents=True)
        for name, array in prepared.images.items():
            np.save(temporary / f"image_{name}.npy", array)
        if prepared.labels is not None:
            np.save(temporary / "labels.npy", prepared.labels)
        np.save(temporary / "foreground.npy", prepared.foreground)
        (temporary / "case.json").write_text(json.dumps(
            {"key": key, "id": case.id, "images": list(prepared.images), "grid": asdict(prepared.grid)}))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return opened(folder, key)


def is_cached(case: Case, task: Task, cache: Path | str | None) -> bool:
    """Whether a case was prepared before, from the same files for the same task."""
    try:
        return cache is not None and bool(opened(Path(cache) / case.id, cache_key(case, task)))
    except (OSError, ValueError, KeyError):
        return False


def opened(folder: Path, key: str) -> PreparedCase:
    """What `cached` wrote, as memory maps. Raises KeyError where it belongs to other files or settings."""
    written = json.loads((folder / "case.json").read_text())
    if written["key"] != key:
        raise KeyError(key)
    as_tuples = lambda value: tuple(map(as_tuples, value)) if isinstance(value, list) else value  # noqa: E731
    grid = Grid(**{name: as_tuples(value) for name, value in written["grid"].items()})
    images = {name: np.load(folder / f"image_{name}.npy", mmap_mode="r") for name in written["images"]}
    labels = folder / "labels.npy"
    return PreparedCase(written["id"], images, np.load(labels, mmap_mode="r") if labels.exists() else None,
                        np.load(folder / "foreground.npy"), grid)


def cache_key(case: Case, task: Task) -> str:
    """Changes with the case's files and with whatever of the task changes the arrays."""
    facts = task.to_json()
    recipe = {name: facts[name] for name in ("modalities", "labels", "intensities", "spacing_mm")}
    sources = {name: state_of(source) for name, source in [*case.images.items(), ("label", case.label)]}
    return hashlib.sha256(json.dumps([1, recipe, sources], sort_keys=True).encode()).hexdigest()


def state_of(source: Source | None) -> list | None:
    """Path, size and time of a file; a checksum of an image held in memory."""
    if source is None:
        return None
    if isinstance(source, Path):
        stat = source.stat()
        return [str(source.resolve()), stat.st_size, stat.st_mtime_ns]
    content = np.ascontiguousarray(source.dataobj).tobytes() + source.affine.tobytes()
    return [hashlib.sha256(content).hexdigest()]


def path_of(source: Source | None) -> Path | None:
    """The path of a file; None for an image held in memory."""
    return source if isinstance(source, Path) else None
