"""The 3-D view in NiiVue: three planes and a rendering, drawn in the browser by a script inside the Python package.

Everything is handed over as bytes of NIfTI and MZ3 files, with the affine of the case; nothing is fetched from an
address, and the view works without a kernel once it is drawn.

References:
    NiiVue, https://github.com/niivue/niivue
    ipyniivue, https://github.com/niivue/ipyniivue
"""

from __future__ import annotations

from html import escape

import ipywidgets
import matplotlib as mpl
import nibabel
import numpy as np
from isal import igzip
from scipy.ndimage import binary_erosion

from maml_toolkit.pictures.widgets.payload import coded_image
from maml_toolkit.pictures.widgets.sight import Sight
from maml_toolkit.pictures.widgets.surface import surface

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

TRUTH = (235, 235, 235)
"""Colour of the truth's surface; its outlines have the colours of their regions."""


def widget(sight: Sight) -> ipywidgets.Widget:
    """The view with a legend and a slider for the opacity of each of its parts."""
    from ipyniivue import MultiplanarType, NiiVue, ShowRender
    view = NiiVue(
        height=560, is_slice_mm=True, is_radiological_convention=True, show_all_orientation_markers=True,
        multiplanar_layout=MultiplanarType.GRID, multiplanar_show_render=ShowRender.ALWAYS,
        crosshair_width=0.5, crosshair_width_unit="mm", crosshair_color=(1.0, 1.0, 1.0, 0.5), is_ruler=True,
        ruler_color=(1.0, 1.0, 1.0, 0.8), ruler_width=2.0, log_level="error",
        mesh_thickness_on_2d=0.0, mesh_xray=1.0, render_overlay_blend=0.0)
    shown = _Steps(sight)
    parts = {"scan": _scan(sight, shown), **({sight.map: _map(sight, shown)} if sight.map else {}),
             "outlines": _outlines(sight, shown)}
    view.load_volumes(list(parts.values()))
    meshes = _meshes(sight)
    view.load_meshes(list(meshes.values()))
    view.scene.crosshair_pos = ((np.array(sight.scene.start) + 0.5) / sight.image.shape).tolist()
    sliders = [_slider(name, part) for name, part in [*parts.items(), *meshes.items()]]
    return ipywidgets.VBox([ipywidgets.HTML(_legend(sight)), view,
                            ipywidgets.HBox(sliders, layout={"flex_flow": "row wrap"})])


class _Steps:
    """How many voxels are left out along each axis so that a browser can hold the rest, and where they lie."""

    def __init__(self, sight: Sight):
        shape, spacing = np.array(sight.image.shape), np.linalg.norm(sight.scene.affine[:3, :3], axis=0)
        steps = np.ones(3, int)
        while np.ceil(shape / steps).prod() > VOXELS:
            steps[(spacing * steps).argmin()] += 1
        self.slices = tuple(slice(None, None, int(step)) for step in steps)
        self.affine = sight.scene.affine @ np.diag([*steps, 1.0])

    def volume(self, name: str, array: np.ndarray, slope: float = 1.0, low: float = 0.0, **look: object) -> object:
        """An array on the canonical grid as a NiiVue volume, low + slope · integer."""
        from ipyniivue import Volume
        image = nibabel.Nifti1Image(np.ascontiguousarray(array[self.slices]), self.affine)
        image.header.set_xyzt_units("mm")
        image.header.set_slope_inter(slope, low)
        return Volume(name=f"{name}.nii.gz", data=igzip.compress(image.to_bytes(), 1), colorbar_visible=False, **look)


def _scan(sight: Sight, shown: _Steps) -> object:
    coded, facts = coded_image(sight.image, sight.scene.task.intensities[sight.modality])
    low, high = sight.window
    return shown.volume("scan", coded, facts["step"], facts["low"], colormap="gray", cal_min=low, cal_max=high)


def _map(sight: Sight, shown: _Steps) -> object:
    """The map in LEVELS colours, 0 where the network was not run; contributions near 0 are seen through."""
    low, high = sight.scale.get_clim()
    coded = np.zeros(sight.image.shape, np.uint8)
    parts = np.clip((sight.values - low) / (high - low), 0, 1)
    coded[sight.scene.grid.box_slices] = FIRST + np.rint(parts * (LEVELS - 1))
    levels = np.linspace(low, high, LEVELS)
    colours = sight.scale.to_rgba(levels, bytes=True)
    colours[:, 3] = 255 * (np.abs(levels) >= NOTHING * high)
    volume = shown.volume(sight.map, coded, opacity=0.5)
    volume.colormap_label = _table([*[(0, 0, 0, 0)] * (FIRST - 1), *colours.tolist()])
    return volume


def _outlines(sight: Sight, shown: _Steps) -> object:
    """Outlines of the classes: solid of the truth, dotted of the prediction."""
    task, prediction = sight.scene.task, sight.sources["prediction"]
    coded = np.where(_edge(prediction) & _dotted(prediction.shape), prediction, 0)
    if sight.scene.truth is not None:
        edge = _edge(sight.scene.truth)
        coded[edge] = sight.scene.truth[edge]
    volume = shown.volume("outlines", coded)
    volume.colormap_label = _table([[*_class_colour(sight, number), 255] for number in range(1, task.classes)])
    return volume


def _edge(classes: np.ndarray) -> np.ndarray:
    """The voxels of each class that touch another."""
    edge = np.zeros(classes.shape, bool)
    for number in range(1, int(classes.max()) + 1):
        edge |= (classes == number) & ~binary_erosion(classes == number)
    return edge


def _dotted(shape: tuple[int, ...]) -> np.ndarray:
    return np.indices(shape, np.int16).sum(0) // 2 % 2 == 0


def _class_colour(sight: Sight, number: int) -> np.ndarray:
    """That of the smallest region with the class, 0 to 255; grey of a class in no region."""
    task = sight.scene.task
    around = [name for name, classes in task.regions.items() if task.class_names[number] in classes]
    name = min(around, key=lambda one: len(task.regions[one]), default=None)
    return np.rint(np.multiply(sight.colours[name] if name else (0.6,) * 3, 255)).astype(int)


def _table(colours: np.ndarray | list) -> object:
    """Colours (n, 4), 0 to 255, of the values 1 to n; 0 is seen through."""
    from ipyniivue import LUT
    return LUT(lut=[0, 0, 0, 0, *np.asarray(colours).astype(int).ravel().tolist()], min=0, max=len(colours))


def _meshes(sight: Sight) -> dict[str, object]:
    """A veil around the truth and over it the prediction: its regions, the largest first, or one in the map's colours.

    NiiVue draws them through the scan in this order, whichever lies in front.
    """
    from ipyniivue import Mesh
    affine, task, prediction = sight.scene.affine, sight.scene.task, sight.sources["prediction"]
    found = {}
    if sight.scene.truth is not None and (whole := surface(sight.scene.truth > 0, affine)) is not None:
        found["truth"] = Mesh(name="truth.mz3", data=whole.mz3(), rgba255=[*TRUTH, 255], opacity=2 * VEIL)
    if sight.map:
        if (whole := surface(prediction > 0, affine)) is not None:
            found["prediction"] = Mesh(name="prediction.mz3", data=whole.mz3(sight.painted(whole)))
        return found
    masks = {name: task.region(prediction, name) for name in task.regions}
    for name in sorted(masks, key=lambda one: -int(masks[one].sum())):
        if (part := surface(masks[name], affine)) is not None:
            colour = np.rint(np.multiply(sight.colours[name], 255)).astype(int).tolist()
            found[name] = Mesh(name=f"{name}.mz3", data=part.mz3(), rgba255=[*colour, 255],
                               opacity=VEIL if sight.holds(masks, name) else 1.0)
    return found


def _slider(name: str, part: object) -> ipywidgets.Widget:
    """Opacity of a part, linked in the browser."""
    slider = ipywidgets.FloatSlider(value=part.opacity, min=0, max=1, step=0.05, description=name, readout=False,
                                    layout={"width": "220px"})
    slider.link = ipywidgets.jslink((slider, "value"), (part, "opacity"))
    return slider


def _legend(sight: Sight) -> str:
    """What the colours mean, as HTML."""
    box = "<span style='display:inline-block;width:1em;height:.8em;background:{}'></span> {}"
    items = [box.format(mpl.colors.to_hex(colour), escape(name)) for name, colour in sight.colours.items()]
    items.append("prediction: dotted outline, a surface in 3-D")
    if sight.scene.truth is not None:
        items.append("truth: solid outline, light veil in 3-D")
    if sight.map:
        low, high = sight.scale.get_clim()
        stops = ", ".join(mpl.colors.to_hex(one) for one in sight.scale.to_rgba(np.linspace(low, high, 9)))
        items.append(f"{escape(sight.label)}: {low:.2g} <span style='display:inline-block;width:8em;height:.8em;"
                     f"background:linear-gradient(to right, {stops})'></span> {high:.2g}")
    return f"<small><b>{escape(str(sight))}</b> &ensp; {' &ensp; '.join(items)}</small>"
