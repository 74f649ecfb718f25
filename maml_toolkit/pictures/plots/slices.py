"""Slices: of a case with its lesion, of maps that a network made of each modality, of scans that were registered.

Ground truth and prediction are lines, solid and dashed, that leave the image visible. A modality that was not acquired
is a hatched panel, never a black image. The letters say where the patient's right, left, front (A) and back (P) are.

Of a registration, in a checkerboard the fields are by turns of the fixed and of the moving scan: the outlines of the
organs run on from field to field where the scans agree, and break where they do not. The edges are those of the fixed
scan, drawn over the moving one: they shall follow its organs.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from scipy.ndimage import gaussian_filter

from maml_toolkit.data.cases import Case
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.pictures.plots import look
from maml_toolkit.pictures.plots.view import Plane, View, brightness, window
from maml_toolkit.prediction.contrast import Contrast
from maml_toolkit.registration import Registration, Transform

BAR = 0.75
"""Inches for a colour bar."""

PLANES = ("axial", "coronal")

FIELDS = 8
"""Of the checkerboard, along the longer side of the picture."""


@look.in_one_look
def case_slices(case: Case, task: Task, *, at: Sequence[int] | None = None, prediction: Any = None,
                axes: Any = None) -> np.ndarray:
    """Shows a case: one axial slice of every modality of the task, with the contours of ground truth and prediction.

    The ground truth has a solid and the prediction a dashed line: with one region in colours of their own, with
    several in that of the region.

    Args:
        at: voxel (i, j, k) through which to cut; the largest cross-section of the lesion when left out.
        prediction: whose `labels` (values of a label file, on the grid `affine`) are drawn too.
        axes: as many axes as the task has modalities; a new figure when left out.

    Returns:
        The axes, one for each modality.

    Raises:
        DataError: the case has no image, or one that cannot be read.
        ValueError: `at` lies outside, or the number of axes is wrong.
    """
    view = View.of(case, task, prediction, at)
    panels = look.panel_grid(1, [view.frame_mm] * len(task.modalities), axes)[0]
    for ax, modality in zip(panels, task.modalities, strict=True):
        image(ax, view, modality, outlined=True)
    look.legend(panels)
    return panels


@look.in_one_look
def attention_maps(case: Case, prediction: Any, task: Task, *, at: Sequence[int] | None = None,
                   axes: Any = None) -> np.ndarray:
    """Shows where the network looked: each modality's image above its attention map, in one range 0 to 1.

    Args:
        prediction: whose `attention` holds a volume for each modality used; a modality that was not used, and
            each of them where the method has no attention, leaves a hatched panel.
        at: voxel (i, j, k) through which to cut; the largest cross-section of the lesion when left out.
        axes: two rows with an axes for each modality; a new figure when left out.

    Returns:
        The axes, shape (2, modalities).

    Raises:
        DataError, ValueError: as for `case_slices`.
    """
    view = View.of(case, task, prediction, at)
    cuts = {name: view.plane.cut(Volume(one, prediction.affine)) for name, one in prediction.attention.items()}
    panels = look.panel_grid(2, [view.frame_mm] * len(task.modalities), axes, beside=BAR)
    for ax, modality in zip(panels[0], task.modalities, strict=True):
        image(ax, view, modality)
        _one_outline(ax, view, "lesion", view.lesion)
    maps(panels[1], [(view, cuts.get(name), view.lesion) for name in task.modalities], "attention",
         ["no attention" if name in prediction.modalities else "not used" for name in task.modalities], "lesion")
    look.legend(panels)
    return panels


@look.in_one_look
def contribution_maps(case: Case, prediction: Any, task: Task, class_name: str | None = None, *,
                      against: str | None = None, at: Sequence[int] | None = None, axes: Any = None) -> np.ndarray:
    """Shows which modality argued for a class and which for another, voxel by voxel.

    The log-odds of the two are the sum of the modalities' shares and that of the bias (`prediction.contrast`). All
    panels share one range, so that strong and weak modalities can be compared by eye.

    Args:
        prediction: with `contributions` of shape (classes, depth, height, width) for each modality used.
        class_name: one of the task's classes or regions; when left out the class that is largest in the picture.
        against: another one; the background of a class, everything else of a region, when left out.
        at: voxel (i, j, k) through which to cut; the largest cross-section of the lesion when left out.
        axes: one for each modality and one for the sum; a new figure when left out.

    Returns:
        The axes, the sum's last.

    Raises:
        DataError: as for `case_slices`.
        ValueError: a class is unknown or on both sides, the method's answer is no sum over modalities, or as for
            `case_slices`.
    """
    contrast = None if class_name is None else Contrast.of(task, class_name, against)
    if not prediction.contributions:
        raise ValueError("this prediction has no contributions: its method does not answer with a sum over "
                         "modalities; use one that does, such as maml")
    if {len(one) for one in prediction.contributions.values()} != {len(task.answers.names)}:
        count = len(next(iter(prediction.contributions.values())))
        raise ValueError(f"found contributions to {count} classes or regions, expected those to "
                         f"{', '.join(task.answers.names)} of task {task.name}; give prediction.task")
    view = View.of(case, task, prediction, at)
    contrast = contrast or Contrast.of(task, view.largest_class, against)
    shares, bias = contrast.shares({
        modality: np.stack([view.plane.cut(Volume(one, prediction.affine)) for one in contribution])
        for modality, contribution in prediction.contributions.items()}, prediction.bias)
    cuts = [*(shares.get(name) for name in task.modalities), sum(shares.values()) + bias]
    panels = look.panel_grid(1, [view.frame_mm] * len(cuts), axes, beside=BAR, around=1)[0]
    maps(panels, [(view, cut, view.of_classes(contrast.classes)) for cut in cuts], contrast.label,
         [*(not_used(name, case.images) for name in task.modalities), ""], contrast.name, extend="both")
    of_what = "log-odds of its fused part" if prediction.policy == "by-size" else "log-odds"
    titles = [*task.modalities, f"{of_what} = sum {'+' if bias >= 0 else '−'} {abs(bias):.2f}"]
    for ax, title in zip(panels, titles, strict=True):
        ax.set_title(title)
    if axes is None:
        figure = panels[0].figure
        figure.suptitle("\n".join(textwrap.fill(one, int(12 * figure.get_figwidth())) for one in
                                  (contrast.sentence, contrast.remark) if one), fontsize=9)
    look.legend(panels)
    return panels


@look.in_one_look
def uncertainty_map(case: Case, prediction: Any, task: Task, *, at: Sequence[int] | None = None,
                    axes: Any = None) -> np.ndarray:
    """Shows where an answer is unsure: each modality's image with the answer, and its uncertainty (nats).

    Args:
        prediction: with `uncertainty`, in nats.
        at: voxel (i, j, k) through which to cut; the largest cross-section of the lesion when left out.
        axes: one for each modality and one for the uncertainty; a new figure when left out.

    Returns:
        The axes, the uncertainty's last.

    Raises:
        DataError: as for `case_slices`.
        ValueError: the prediction was made without uncertainty, or as for `case_slices`.
    """
    if prediction.uncertainty is None:
        raise ValueError("found a prediction without uncertainty, expected one with it; predict with uncertainty=True")
    view = View.of(case, task, prediction, at)
    panels = look.panel_grid(1, [view.frame_mm] * (len(task.modalities) + 1), axes, beside=BAR)[0]
    for ax, modality in zip(panels, task.modalities, strict=False):
        image(ax, view, modality, outlined=True)
    scale = ScalarMappable(Normalize(0, task.answers.most_nats), "cividis")
    cut = view.plane.cut(Volume(prediction.uncertainty, prediction.affine))
    look.picture(panels[-1], view.plane, cut, scale, view.frame_mm)
    _one_outline(panels[-1], view, "lesion", view.lesion)
    panels[-1].set_title("uncertainty")
    panels[0].figure.colorbar(scale, ax=list(panels), label="nats", shrink=0.9, pad=0.02)
    look.legend(panels)
    return panels


@look.in_one_look
def side_by_side(cases: Sequence[Case], task: Task, predictions: Mapping[str, Sequence[Any]],
                 modality: str | None = None, axes: Any = None) -> np.ndarray:
    """Shows cases as rows and answers as columns: ground truth and each system's answer, on one modality's image.

    This is the paper's Figure 3: cases where a single modality fails and both together do not.

    Args:
        predictions: name of a system -> its prediction of each case.
        modality: whose image lies below; that which the prediction used if it used one, else the reference.
        axes: a row for each case with an axes for each system; a new figure when left out.

    Returns:
        The axes, shape (cases, systems).

    Raises:
        ValueError: a system with fewer or more predictions than cases, or the number of axes is wrong.
    """
    if wrong := {name: len(own) for name, own in predictions.items() if len(own) != len(cases)}:
        raise ValueError(f"found {wrong} predictions, expected {len(cases)}, one for each case")
    views = [_in_one_plane(case, task, [own[row] for own in predictions.values()]) for row, case in enumerate(cases)]
    panels = look.panel_grid(len(cases), [views[0][0].frame_mm] * len(predictions), axes)
    for row, case in enumerate(cases):
        for ax, view, (name, own) in zip(panels[row], views[row], predictions.items(), strict=True):
            used = own[row].modalities
            shown = modality or (used[0] if len(used) == 1 else task.reference)
            image(ax, view, shown)
            ax.set_title(f"{name}\n" * (row == 0) + f"on {shown}", fontsize=9)
            for below, source in ((1, "ground truth"), (0, "prediction")):
                line = look.outline(source, below=below)
                look.contour(ax, view.plane, view.classes[source] > 0, line, {source: line})
        panels[row, 0].set_ylabel(case.id, fontsize=8)
    look.legend(panels)
    return panels


@look.in_one_look
def registration_check(fixed: Volume, moving: Volume, registration: Registration, *,
                       planes: Sequence[str] = PLANES, at_mm: Sequence[float | int] | None = None,
                       names: tuple[str, str] = ("fixed scan", "moving scan"), axes: Any = None) -> np.ndarray:
    """Shows two scans as checkerboard and as edges, before and after the registration, with its NMI in the titles.

    Args:
        fixed, moving: the scans that were registered.
        planes: "axial", "coronal" or both, through one point.
        at_mm: this point (mm, RAS+); the middle of the fixed scan's body when left out.
        names: of the two scans, for titles and legend.
        axes: two rows, with two axes for each plane; a new figure when left out.

    Returns:
        The axes, shape (2, 2 * planes): above before, below after the registration.

    Raises:
        ValueError: an unknown plane, or the number of axes is wrong.
    """
    if not planes or set(planes) - set(PLANES):
        raise ValueError(f"found the planes {list(planes)}, expected some of {', '.join(PLANES)}")
    kind = registration.recipe.kind
    own = _body_window(fixed, kind)
    other = own if kind == "ct" else _body_window(moving, kind)    # Hounsfield units mean one thing in both scans
    point = _middle(fixed, *own) if at_mm is None else np.asarray(at_mm, float)
    cuts = {plane: Plane.through(point, fixed, plane) for plane in planes}
    frames = [cut.extent_mm for cut in cuts.values() for _ in ("board", "edges")]
    panels = look.panel_grid(2, frames, axes, largest=3.5, widest=12, around=0.9)
    explained = {f"edges of {names[0]} over {names[1]}": {"color": look.EDGES}}
    steps = (("before", Transform.identity(), registration.before),
             ("after", registration.transform, registration.after))
    for row, (when, transform, measures) in zip(panels, steps, strict=True):
        for number, (plane, cut) in enumerate(cuts.items()):
            here, there = _in_plane(fixed, cut, Transform.identity(), own), _in_plane(moving, cut, transform, other)
            board, edges = row[2 * number:2 * number + 2]
            look.picture(board, cut, np.where(_fields(cut), here, there))
            look.picture(edges, cut, there)
            look.contour(edges, cut, _organs(here), {"color": look.EDGES, "linewidth": 0.7}, explained)
            board.set_title(f"{plane}, {when}: NMI {measures.nmi:.3f}")
            edges.set_title(f"{names[1]}, {when}")
    look.legend(panels)
    return panels


def _in_one_plane(case: Case, task: Task, answers: Sequence[Any]) -> list[View]:
    """The views of several answers about a case, through the lesion of the first that has one."""
    views = [View.of(case, task, one) for one in answers]
    plane = next((view.plane for view in views if any(one.any() for one in view.classes.values())), views[0].plane)
    return [view if np.array_equal(view.plane.to_mm, plane.to_mm) else View.of(case, task, one, plane=plane)
            for view, one in zip(views, answers, strict=True)]


def image(ax: Axes, view: View, modality: str, outlined: bool = False) -> None:
    """A modality's image with its name and the outlines of all regions, or a hatched panel where it was not acquired.

    Of regions one in the other the outer lies below and has the wider line (`look.outline`).
    """
    ax.set_title(modality)
    if modality in view.images:
        look.picture(ax, view.plane, view.images[modality], frame=view.frame_mm)
    else:
        look.hatched(ax, view.frame_mm, "not acquired")
    if not outlined:
        return
    colours, inside = look.region_colours(view.task), look.nesting(view.task)
    for region in sorted(colours, key=inside.__getitem__, reverse=True):
        for below, (source, classes) in zip((len(view.classes) - 1, 0), view.classes.items(), strict=False):
            mask = view.task.region(classes, region)
            if len(colours) == 1:
                line = look.outline(source, below=below)
                named = {f"{region}, {source}": line}
            else:
                solid, line = (look.outline(one, colours[region], inside[region]) for one in ("ground truth", source))
                named = {region: solid, source: look.outline(source, "0.5")}
            look.contour(ax, view.plane, mask, line, named)


def _one_outline(ax: Axes, view: View, name: str, mask: np.ndarray) -> None:
    """What is known best of a lesion or class, in the colour of whose it is."""
    look.contour(ax, view.plane, mask, line := look.outline(view.source), {f"{name}, {view.source}": line})


def maps(panels: np.ndarray, cuts: Sequence[tuple[View, np.ndarray | None, np.ndarray]], label: str,
         absent: Sequence[str], name: str, **bar: Any) -> None:
    """Maps in the colours of one scale with a bar beside them, or a hatched panel that says why there is none.

    Args:
        cuts: the view of each panel, its map and the mask that is outlined in it.
        label: of the bar; "attention" has the scale from 0 to 1.
        absent: why a panel has no map.
        name: of what is outlined.
    """
    scale = map_scale(label, [cut for _, cut, _ in cuts if cut is not None])
    for ax, (view, cut, mask), why in zip(panels, cuts, absent, strict=True):
        if cut is None:
            look.hatched(ax, view.frame_mm, why)
        else:
            look.picture(ax, view.plane, cut, scale, view.frame_mm)
            _one_outline(ax, view, name, mask)
    panels[0].figure.colorbar(scale, ax=list(panels), label=label.replace(" against ", "\nagainst "), shrink=0.9,
                              pad=0.02, **bar)


def not_used(modality: str, acquired: Iterable[str]) -> str:
    """Why there is no map of a modality."""
    return "not used" if modality in acquired else "not acquired"


def map_scale(kind: str, values: Sequence[np.ndarray]) -> ScalarMappable:
    """Colours of maps: attention from 0 to 1; others in one range about 0, the 99.5 percentile of their size."""
    if kind == "attention":
        return ScalarMappable(Normalize(0, 1), "cividis")
    limit = max(float(np.percentile(np.abs(np.concatenate([one.ravel() for one in values])), 99.5)), 1e-6)
    return ScalarMappable(Normalize(-limit, limit), "RdBu_r")


def _body_window(volume: Volume, kind: str) -> tuple[float, float]:
    """The window of a scan; of an MR from 0 on, so that dark tissue is part of the body."""
    low, high = window(volume.array, kind)
    return (low if kind == "ct" else 0.0), high


def _in_plane(volume: Volume, plane: Plane, transform: Transform, shown: tuple[float, float]) -> np.ndarray:
    """The picture (rows, columns) of a scan in a plane of the fixed scan, as brightness 0 to 1."""
    cut = transform.apply(volume, ((*plane.size, 1), plane.to_mm), outside=shown[0])
    return brightness(cut.array[:, :, 0].T, *shown)


def _middle(volume: Volume, low: float, high: float) -> np.ndarray:
    """The middle of what is not dark, in mm."""
    step = np.maximum(1, np.floor_divide(volume.shape, 64))
    bright = np.argwhere(volume.array[tuple(slice(None, None, n) for n in step)] > low + 0.2 * (high - low))
    voxel = bright.mean(0) * step if len(bright) else np.divide(volume.shape, 2)
    return nib.affines.apply_affine(volume.affine, voxel)


def _fields(plane: Plane) -> np.ndarray:
    """Every second field of a checkerboard."""
    side = max(plane.extent_mm) / FIELDS
    (width, height), (columns, rows) = plane.spacing_mm, plane.size
    row, column = np.indices((rows, columns))
    return ((row * height // side) + (column * width // side)) % 2 == 0


def _organs(pixels: np.ndarray) -> np.ndarray:
    """What is bright after smoothing; its outline shows the organs."""
    smooth = gaussian_filter(pixels, 1.5)
    tissue = smooth[smooth > 0.15]
    return smooth > (np.median(tissue) if tissue.size else 0.5)
