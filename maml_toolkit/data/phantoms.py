"""Synthetic cases with a known truth, made in memory in a moment: for trying, teaching and testing.

No single scan of a phantom shows the whole lesion, and each scan shows things of its own that look like
the lesion and are none, so that only a method that relates the scans to each other can tell. In the liver

    lesion = (part that is bright in the arterial phase) ∪ (part that is dark in the venous phase),

the two parts overlapping by about 9 % of the lesion, or as told (on patients, where both phases together are 4 to 8
points better than one, they share most of it); bright spheres and arteries of the arterial phase and dark, cyst-like
spheres and veins of the venous phase have no counterpart in the other. The brain shows its enhancing rim in T1ce, its
oedema in FLAIR and less so in T2, its necrosis in T1, T1ce and T2. Gaussian noise and a smooth bias field
lie over all. These are cartoons, not simulations: what a method gains here says that it works, not how well
it would do on patients.

All lengths are fractions of half the field of view, so that a phantom looks the same at every size.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import brentq

from maml_toolkit.data.case import Case, Cases
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.data.volumes import held

Size = int | tuple[int, int, int]
Lengths = np.ndarray | Sequence[float | int] | float
Missing = float | int | Mapping[str, float | int] | None

KINDS = {"liver": "liver_phases", "brain": "brats2021"}
"""The first word of a phantom's id, and its task; a kind's place here is part of its random stream."""


def liver_phases(count: int, size: Size = (32, 32, 32), seed: int = 0,
                 spacing_mm: Sequence[float | int] = (1.0, 1.0, 1.0), missing: Missing = None,
                 overlap: float | None = None) -> Cases:
    """Two-phase CTs of livers with one to three tumours, in HU: modalities arterial and venous, label 0 or 1.

    Case i depends on the seed, i, the size and nothing else: the first 10 of 20 are the 10 of 10.

    Args:
        count: how many.
        size: voxels along each axis; one number for all three.
        seed: 0 or larger; another seed makes other patients.
        spacing_mm: edges of a voxel. The body grows with it.
        missing: the probability that a scan is missing, one for all or by modality. One scan always stays.
        overlap: the share of the lesion that both phases show, from 0 to below 1; about 0.09 when left out. A reader of
            one phase alone, who misses nothing there, has a Dice of 2 (1 + overlap) / (3 + overlap).

    Raises:
        ValueError: an argument that makes no volume.
    """
    if overlap is not None and not 0 <= overlap < 1:
        raise ValueError(f"found overlap={overlap}, expected a share from 0 to below 1")

    def make(rng: np.random.Generator, size: tuple[int, int, int]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        images, parts = _liver(rng, size, overlap)
        return images, (parts["arterial"] | parts["venous"]).astype(np.uint8)

    return _cases("liver", make, count, size, seed, spacing_mm, missing)


def brains(count: int, size: Size = (32, 32, 32), seed: int = 0,
           spacing_mm: Sequence[float | int] = (1.0, 1.0, 1.0), missing: Missing = None) -> Cases:
    """Skull-stripped MRs of one glioma each: modalities t1, t1ce, t2, flair, labels of TASKS["brats2021"].

    Outside the brain every image is exactly 0, inside it is positive. About one glioma in four has no
    enhancing part. Arguments, determinism and errors as in `liver_phases`.
    """
    return _cases("brain", _brain, count, size, seed, spacing_mm, missing)


def visible_parts(seed: int, index: int, size: Size = (32, 32, 32),
                  overlap: float | None = None) -> dict[str, np.ndarray]:
    """Where each phase shows the tumours of case `index` of `liver_phases`: a mask by modality.

    The union of the masks is the label; their overlap is what both phases show.
    """
    _, parts = _liver(_stream("liver", seed, index), _checked_size(size), overlap)
    return parts


def _cases(kind: str, make: Callable, count: int, size: Size, seed: int, spacing_mm: Sequence[float | int],
           missing: Missing) -> Cases:
    """Cases of the images and the label that `make` draws from a random stream at a size."""
    size = _checked_size(size)
    affine = _centred_affine(size, spacing_mm)
    if count < 0 or seed < 0:
        raise ValueError(f"count is {count} and seed is {seed}, expected 0 or larger")
    cases = Cases()
    for index in range(count):
        arrays, label = make(_stream(kind, seed, index), size)
        present = _present(_stream(kind, seed, index, 1), tuple(arrays), missing)
        images = {name: held(arrays[name], affine) for name in present}
        cases.append(Case(f"{kind}-{seed}-{index:03d}", images, held(label, affine), task=TASKS[KINDS[kind]]))
    return cases


def _stream(kind: str, seed: int, index: int, part: int = 0) -> np.random.Generator:
    return np.random.default_rng([[*KINDS].index(kind), seed, index, part])


def _checked_size(size: Size) -> tuple[int, int, int]:
    sizes = (size,) * 3 if isinstance(size, int) else tuple(size)
    if len(sizes) != 3 or min(sizes) < 8:
        raise ValueError(f"size is {size}, expected three numbers of voxels, each at least 8")
    return sizes


def _centred_affine(size: tuple[int, int, int], spacing_mm: Sequence[float | int]) -> np.ndarray:
    if len(spacing_mm) != 3 or not min(spacing_mm) > 0:
        raise ValueError(f"spacing_mm is {tuple(spacing_mm)}, expected three positive millimetres")
    affine = np.diag([*spacing_mm, 1.0]).astype(float)
    affine[:3, 3] = -np.multiply(spacing_mm, np.subtract(size, 1)) / 2
    return affine


def _present(rng: np.random.Generator, modalities: tuple[str, ...], missing: Missing) -> list[str]:
    chances = missing if isinstance(missing, Mapping) else dict.fromkeys(modalities, missing or 0.0)
    if set(chances) - set(modalities) or not all(0 <= chance <= 1 for chance in chances.values()):
        raise ValueError(f"missing is {missing}, expected probabilities, 0 to 1, by names of {modalities}")
    drawn, spared = rng.random(len(modalities)), modalities[rng.integers(len(modalities))]
    kept = [name for name, one in zip(modalities, drawn, strict=True) if one >= chances.get(name, 0.0)]
    return kept or [spared]


def _bent_grid(rng: np.random.Generator, size: tuple[int, int, int]) -> np.ndarray:
    """Coordinates of each voxel, -1 to 1, bent by slow waves so that ellipsoids look grown."""
    axes = [((np.arange(n) + 0.5) / n * 2 - 1).astype(np.float32) for n in size]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    return grid + 0.05 * np.stack([_wave(rng, grid, cycles=0.8) for _ in range(3)])


def _wave(rng: np.random.Generator, grid: np.ndarray, cycles: float) -> np.ndarray:
    """A smooth field of about -1 to 1: a mean of three plane waves of at most `cycles` across the half view."""
    terms = 3
    turns = rng.uniform(-cycles, cycles, (terms, 3)).astype(np.float32) * np.float32(np.pi)
    phases = rng.uniform(0, 2 * np.pi, terms).astype(np.float32)
    return sum(np.cos(np.tensordot(turn, grid, 1) + phase)
               for turn, phase in zip(turns, phases, strict=True)) / np.float32(terms)


def _ellipsoid(grid: np.ndarray, centre: Lengths, radii: Lengths) -> np.ndarray:
    centre, radii = (np.broadcast_to(lengths, 3).astype(np.float32) for lengths in (centre, radii))
    return sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, centre, radii, strict=True)) <= 1


def _vessel(rng: np.random.Generator, grid: np.ndarray, centre: Lengths, radius: float) -> np.ndarray:
    """A tube that runs through `centre` along a parabola."""
    along, aside = (_direction(rng).astype(np.float32) for _ in range(2))
    offset = grid - np.asarray(centre, np.float32)[:, None, None, None]
    t = np.tensordot(along, offset, 1)
    bend = np.float32(rng.uniform(0.2, 0.8))
    axis = np.tensordot(along, t, 0) + np.tensordot(aside * bend, t**2, 0)
    return ((offset - axis) ** 2).sum(0) <= radius**2


def _direction(rng: np.random.Generator) -> np.ndarray:
    vector = rng.standard_normal(3)
    return vector / np.linalg.norm(vector)


def _place(rng: np.random.Generator, centre: np.ndarray, radii: np.ndarray, reach: float,
           taken: list[tuple[np.ndarray, float]]) -> np.ndarray | None:
    """A point of the ellipsoid with a free radius of `reach` and a gap around it; None if there is none."""
    for _ in range(60):
        point = centre + radii * _direction(rng) * rng.random() ** (1 / 3)
        if all(np.linalg.norm(point - other) > reach + radius + 0.06 for other, radius in taken):
            taken.append((point, reach))
            return point
    return None


def _lookalikes(rng: np.random.Generator, grid: np.ndarray, centre: np.ndarray, radii: np.ndarray,
                taken: list[tuple[np.ndarray, float]], count: int, smallest: float) -> list[np.ndarray]:
    """At most `count` spheres where nothing else is."""
    sizes = rng.uniform(smallest, 1.75 * smallest, count)
    placed = [(_place(rng, centre, radii, size, taken), size) for size in sizes]
    return [_ellipsoid(grid, point, size) for point, size in placed if point is not None]


def _finished(rng: np.random.Generator, image: np.ndarray, noise: float) -> np.ndarray:
    """The image with partial volume, as wide on a fine grid as on that of 32 voxels, and noise."""
    blurred = gaussian_filter(image.astype(np.float32), max(0.5, min(image.shape) / 64))
    return blurred + noise * rng.standard_normal(image.shape, dtype=np.float32)


def _liver(rng: np.random.Generator, size: tuple[int, int, int],
           overlap: float | None) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The images, and where each of them shows the tumours."""
    grid = _bent_grid(rng, size)
    centre, radii = rng.uniform(-0.08, 0.08, 3), rng.uniform(0.62, 0.78, 3)
    body, liver = _ellipsoid(grid, (0, 0, 0), (1.4, 1.25, 3.0)), _ellipsoid(grid, centre, radii)
    enhanced = {"arterial": 70.0, "venous": 110.0}
    images = {name: np.where(liver, hu, np.where(body, 20.0, -1000.0)) for name, hu in enhanced.items()}
    for name, radius in (("arterial", 0.05), ("venous", 0.07)):
        for _ in range(2):
            tube = _vessel(rng, grid, centre + radii * rng.uniform(-0.4, 0.4, 3), radius)
            images[name][tube & liver] = enhanced[name] + 60
    taken: list[tuple[np.ndarray, float]] = []
    visible = {name: np.zeros(size, bool) for name in images}
    for _ in range(rng.integers(1, 4)):
        for name, part in _tumour(rng, grid, centre, radii, taken, overlap).items():
            visible[name] |= part & liver
            images[name][part & liver] = enhanced[name] + _CONTRAST[name] * rng.uniform(0.8, 1.2)
    for name, contrast in _CONTRAST.items():
        for sphere in _lookalikes(rng, grid, centre, radii * 0.8, taken, count=2, smallest=0.14):
            images[name][sphere & liver] = enhanced[name] + contrast * rng.uniform(0.8, 1.2)
    bias = {name: 12 * _wave(rng, grid, cycles=0.6) * body for name in images}
    return {name: np.rint(_finished(rng, image + bias[name], noise=15.0)).astype(np.int16)
            for name, image in images.items()}, visible


_CONTRAST = {"arterial": 70.0, "venous": -70.0}      # HU against the liver: wash-in, then wash-out


def _tumour(rng: np.random.Generator, grid: np.ndarray, centre: np.ndarray, radii: np.ndarray,
            taken: list[tuple[np.ndarray, float]], overlap: float | None) -> dict[str, np.ndarray]:
    """The two overlapping parts of one tumour, or nothing where there is no room."""
    sizes = rng.uniform(0.16, 0.26, 2)
    middle = _place(rng, centre, radii * 0.65, sizes.sum() * 0.9, taken)
    if middle is None:
        return {}
    apart = sizes.mean() * 1.3
    if overlap is not None:
        # spheres of one size share most: as unlike as leaves room for the overlap asked for
        alike = overlap**0.5 / (sizes.min() / sizes.max()) ** 3
        sizes = sizes if alike <= 1 else np.array([1, overlap ** (1 / 6)])[np.argsort(-sizes).argsort()] * sizes.max()
        apart = _apart(*sizes, overlap)
    shift = _direction(rng) * apart / 2
    return {"arterial": _ellipsoid(grid, middle - shift, sizes[0]),
            "venous": _ellipsoid(grid, middle + shift, sizes[1])}


def _apart(one: float, other: float, overlap: float) -> float:
    """How far apart the centres of two spheres are that share so much of their union."""
    def too_much(apart: float) -> float:
        lens = np.pi * (one + other - apart) ** 2 * (apart**2 + 2 * apart * (one + other) - 3 * (one - other) ** 2)
        lens /= 12 * apart
        return lens / (4 / 3 * np.pi * (one**3 + other**3) - lens) - overlap

    return brentq(too_much, abs(one - other) + 1e-9, one + other)


_TISSUE = {                     # arbitrary units: grey matter, white matter, ventricles
    "t1": (300.0, 400.0, 150.0), "t1ce": (310.0, 410.0, 150.0),
    "t2": (400.0, 320.0, 700.0), "flair": (350.0, 300.0, 140.0),
}
_GLIOMA = {                     # oedema, necrosis, enhancing rim
    "t1": (360.0, 230.0, 350.0), "t1ce": (375.0, 220.0, 720.0),
    "t2": (460.0, 620.0, 480.0), "flair": (560.0, 430.0, 520.0),
}
_LOOKALIKE = {"t1": 240.0, "t1ce": 680.0, "t2": 560.0, "flair": 540.0}     # of each sequence alone


def _brain(rng: np.random.Generator, size: tuple[int, int, int]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The images and the label."""
    grid = _bent_grid(rng, size)
    radii = rng.uniform((0.74, 0.84, 0.74), (0.82, 0.92, 0.82))
    brain, white = _ellipsoid(grid, (0, 0, 0), radii), _ellipsoid(grid, (0, 0, 0), radii * 0.8)
    left, right = (_ellipsoid(grid, (side * 0.14, 0.05, 0.05), (0.09, 0.3, 0.14)) for side in (-1, 1))
    images = {name: np.where(left | right, fluid, np.where(white, inner, outer))
              for name, (outer, inner, fluid) in _TISSUE.items()}
    taken: list[tuple[np.ndarray, float]] = []
    label = _glioma(rng, grid, radii, taken) * brain
    for name, image in images.items():
        for sphere in _lookalikes(rng, grid, np.zeros(3), radii * 0.85, taken, count=3, smallest=0.09):
            image[sphere] = _LOOKALIKE[name] * rng.uniform(0.9, 1.1)
    for _ in range(2):
        images["t1ce"][_vessel(rng, grid, radii * rng.uniform(-0.5, 0.5, 3), 0.05)] = 650.0
    for name, image in images.items():
        for value, intensity in zip((2, 1, 4), _GLIOMA[name], strict=True):
            image[label == value] = intensity * rng.uniform(0.95, 1.05)
    return {name: _received(rng, grid, image, brain) for name, image in images.items()}, label


def _glioma(rng: np.random.Generator, grid: np.ndarray, radii: np.ndarray,
            taken: list[tuple[np.ndarray, float]]) -> np.ndarray:
    """Necrosis (1) in an enhancing rim (4), or without one, in oedema (2) of two lobes."""
    core, has_rim = rng.uniform(0.17, 0.28), rng.random() < 0.75
    middle = _place(rng, np.zeros(3), radii * 0.6, core * 2.2, taken)
    label = np.zeros(grid.shape[1:], np.uint8)
    for _ in range(2):
        lobe = middle + _direction(rng) * core * 0.7
        label[_ellipsoid(grid, lobe, core * rng.uniform(1.3, 1.7, 3))] = 2
    label[_ellipsoid(grid, middle, core)] = 4 if has_rim else 1
    label[_ellipsoid(grid, middle, core * rng.uniform(0.5, 0.7))] = 1
    return label


def _received(rng: np.random.Generator, grid: np.ndarray, image: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """What the scanner and a skull-stripper make of it: blur, coil's bias, noise, exact zeros outside."""
    biased = image * (1 + 0.12 * _wave(rng, grid, cycles=0.6))
    return (np.rint(np.maximum(_finished(rng, biased, noise=30.0), 1)) * brain).astype(np.int16)
