"""The 3-D view in NiiVue: three planes and a rendering, drawn in the browser by a script inside the Python package.

Everything is handed over as bytes of NIfTI and MZ3 files, with the affine of the case; nothing is fetched from an
address, and the view works without a kernel once it is drawn.

References:
    NiiVue, https://github.com/niivue/niivue
    ipyniivue, https://github.com/niivue/ipyniivue
"""

from html import escape

import ipywidgets
import matplotlib as mpl
import nibabel
import numpy as np
from ipyniivue import LUT, Mesh, MultiplanarType, NiiVue, ShowRender, Volume
from isal import igzip
from scipy.ndimage import binary_erosion, map_coordinates

from maml_toolkit.pictures.plots.look import SOURCES, class_colours, region_colours
from maml_toolkit.pictures.plots.view import window
from maml_toolkit.pictures.widgets.payload import coded_image
from maml_toolkit.pictures.widgets.scene import Sight
from maml_toolkit.pictures.widgets.surface import Surface, surface

VOXELS = 256 ** 3
"""A scan of more voxels is shown with every second (third, …) voxel along its finest axes: a graphics card holds each
volume several times over, at four bytes a voxel."""

LEVELS, FIRST = 101, 8
"""Colours of a map, and the number of the first; NiiVue blends neighbours and draws 0 as the number 2, so that a few
transparent ones keep apart what has a value and what has none."""

NOTHING = 0.1
"""Contributions below this part of the range are not drawn; NiiVue draws a voxel or not, nothing between."""

VEIL = 0.12
"""Opacity of a surface around another, which NiiVue draws four times over."""


def widget(sight: Sight) -> ipywidgets.Widget:
    """The view with a legend and a slider for the opacity of each of its parts."""
    view = NiiVue(
        height=560, is_slice_mm=True, is_radiological_convention=True, show_all_orientation_markers=True,
        multiplanar_layout=MultiplanarType.GRID, multiplanar_show_render=ShowRender.ALWAYS,
        crosshair_width=0.5, crosshair_width_unit="mm", crosshair_color=(1.0, 1.0, 1.0, 0.5), is_ruler=True,
        ruler_color=(1.0, 1.0, 1.0, 0.8), ruler_width=2.0, log_level="error",
        mesh_thickness_on_2d=0.0, mesh_xray=1.0, render_overlay_blend=0.0)
    parts = {"scan": _scan(sight), **({sight.map: _map(sight)} if sight.map else {}), "outlines": _outlines(sight)}
    view.load_volumes(list(parts.values()))
    meshes = _meshes(sight)
    view.load_meshes(list(meshes.values()))
    view.scene.crosshair_pos = ((np.array(sight.scene.start) + 0.5) / sight.image.shape).tolist()
    sliders = [_slider(name, part) for name, part in (parts | meshes).items()]
    return ipywidgets.VBox([ipywidgets.HTML(_legend(sight)), view,
                            ipywidgets.HBox(sliders, layout={"flex_flow": "row wrap"})])


def _volume(sight: Sight, name: str, array: np.ndarray, slope: float = 1.0, low: float = 0.0, **look: object) -> Volume:
    """An array on the canonical grid as a NiiVue volume, low + slope · integer, of at most VOXELS."""
    spacing, steps = nibabel.affines.voxel_sizes(sight.scene.affine), np.ones(3, int)
    while np.ceil(array.shape / steps).prod() > VOXELS:
        steps[(spacing * steps).argmin()] += 1
    thinned = np.ascontiguousarray(array[tuple(slice(None, None, step) for step in steps)])
    image = nibabel.Nifti1Image(thinned, sight.scene.affine @ np.diag([*steps, 1.0]))
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(slope, low)
    return Volume(name=f"{name}.nii.gz", data=igzip.compress(image.to_bytes(), 1), colorbar_visible=False, **look)


def _scan(sight: Sight) -> Volume:
    kind = sight.scene.task.intensities[sight.modality]
    coded, facts = coded_image(sight.image, kind)
    low, high = window(sight.image, kind)
    return _volume(sight, "scan", coded, facts["step"], facts["low"], colormap="gray", cal_min=low, cal_max=high)


def _map(sight: Sight) -> Volume:
    """The map in LEVELS colours, 0 where the network was not run; contributions near 0 are seen through."""
    low, high = sight.scale.get_clim()
    coded = np.zeros(sight.image.shape, np.uint8)
    parts = np.clip((sight.values - low) / (high - low), 0, 1)
    coded[sight.scene.grid.box_slices] = FIRST + np.rint(parts * (LEVELS - 1))
    levels = np.linspace(low, high, LEVELS)
    colours = sight.scale.to_rgba(levels, bytes=True)
    colours[:, 3] = 255 * ((np.abs(levels) >= NOTHING * high) | (sight.map == "attention"))
    volume = _volume(sight, sight.map, coded, opacity=0.5)
    volume.colormap_label = _table([*[(0, 0, 0, 0)] * (FIRST - 1), *colours.tolist()])
    return volume


def _outlines(sight: Sight) -> Volume:
    """Outlines of the classes: solid of the ground truth, dotted of the prediction."""
    task, prediction = sight.scene.task, sight.scene.whole_classes
    dots = np.indices(prediction.shape, np.int16).sum(0) // 2 % 2 == 0
    coded = np.where(_edge(prediction) & dots, prediction, 0)
    if sight.scene.truth is not None:
        edge = _edge(sight.scene.truth)
        coded[edge] = sight.scene.truth[edge]
    volume = _volume(sight, "outlines", coded)
    volume.colormap_label = _table([[*_bytes(colour), 255] for colour in class_colours(task).values()])
    return volume


def _edge(classes: np.ndarray) -> np.ndarray:
    """The voxels of each class that touch another."""
    edge = np.zeros(classes.shape, bool)
    for number in range(1, int(classes.max()) + 1):
        edge |= (classes == number) & ~binary_erosion(classes == number)
    return edge


def _bytes(colour: str) -> list[int]:
    """Red, green, blue, 0 to 255."""
    return np.rint(np.multiply(mpl.colors.to_rgb(colour), 255)).astype(int).tolist()


def _table(colours: np.ndarray | list) -> LUT:
    """Colours (n, 4), 0 to 255, of the values 1 to n; 0 is seen through."""
    return LUT(lut=[0, 0, 0, 0, *np.asarray(colours).astype(int).ravel().tolist()], min=0, max=len(colours))


def _meshes(sight: Sight) -> dict[str, Mesh]:
    """A veil around the ground truth and over it the prediction: its regions, the largest first, or all in one.

    NiiVue draws them through the scan in this order, whichever lies in front. One that is all in one has the map's
    colours.
    """
    affine, task, prediction = sight.scene.affine, sight.scene.task, sight.scene.whole_classes
    found = {}
    if sight.scene.truth is not None and (whole := surface(sight.scene.truth > 0, affine)) is not None:
        found["ground truth"] = Mesh(name="truth.mz3", data=whole.mz3(),
                                     rgba255=[*_bytes(SOURCES["ground truth"]), 255], opacity=2 * VEIL)
    if sight.map:
        if (whole := surface(prediction > 0, affine)) is not None:
            found["prediction"] = Mesh(name="prediction.mz3", data=whole.mz3(_painted(sight, whole)))
        return found
    masks, colours = {name: task.region(prediction, name) for name in task.regions}, region_colours(task)
    sizes = {name: int(mask.sum()) for name, mask in masks.items()}
    for name in sorted(masks, key=sizes.__getitem__, reverse=True):
        if (part := surface(masks[name], affine)) is not None:
            is_around = any(0 < sizes[other] < sizes[name] and (masks[name] & masks[other]).any() for other in masks)
            found[name] = Mesh(name=f"{name}.mz3", data=part.mz3(), rgba255=[*_bytes(colours[name]), 255],
                               opacity=VEIL if is_around else 1.0)
    return found


def _painted(sight: Sight, whole: Surface) -> np.ndarray:
    """The map's colours at the points of a surface on the canonical grid, (points, 3)."""
    start = [edges[0] for edges in sight.scene.grid.box]
    values = map_coordinates(sight.values, (whole.voxels - start).T, order=1, mode="nearest")
    return sight.scale.to_rgba(values)[:, :3]


def _slider(name: str, part: object) -> ipywidgets.Widget:
    """Opacity of a part, linked in the browser."""
    slider = ipywidgets.FloatSlider(value=part.opacity, min=0, max=1, step=0.05, description=name, readout=False,
                                    layout={"width": "220px"})
    slider.link = ipywidgets.jslink((slider, "value"), (part, "opacity"))
    return slider


def _legend(sight: Sight) -> str:
    """What the colours mean, as HTML."""
    box = "<span style='display:inline-block;width:1em;height:.8em;background:{}'></span> {}"
    task, sources = sight.scene.task, sight.scene.sources
    regions = {name: colour for name, colour in region_colours(task).items()
               if any(task.region(classes, name).any() for classes in sources.values())}
    others = {name: colour for number, (name, colour) in enumerate(class_colours(task).items(), 1)
              if colour not in regions.values() and any((classes == number).any() for classes in sources.values())}
    items = [box.format(colour.lower(), escape(name)) for name, colour in (regions | others).items()]
    items += [f"{source}: {look}" for source, look in (("prediction", "dotted outline, a surface in 3-D"),
                                                       ("ground truth", "solid outline, light veil in 3-D"))
              if source in sources and sources[source].any()]
    if sight.map:
        low, high = sight.scale.get_clim()
        stops = ", ".join(mpl.colors.to_hex(one) for one in sight.scale.to_rgba(np.linspace(low, high, 9)))
        items.append(f"{escape(sight.label)}: {low:.2g} <span style='display:inline-block;width:8em;height:.8em;"
                     f"background:linear-gradient(to right, {stops})'></span> {high:.2g}")
    if sight.map == "contribution":
        items.append(escape(" ".join((sight.contrast.sentence, sight.contrast.remark))))
    return f"<small><b>{escape(str(sight))}</b> &ensp; {' &ensp; '.join(items)}</small>"
