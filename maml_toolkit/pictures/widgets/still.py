"""The picture that stands for a widget where no script runs: on code hosts, in printed and converted notebooks."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from matplotlib.figure import Figure

from maml_toolkit.data.volumes import Volume
from maml_toolkit.pictures.plots.look import in_one_look, legend, panel_grid
from maml_toolkit.pictures.plots.slices import image, maps, not_used
from maml_toolkit.pictures.plots.view import Plane, View, window
from maml_toolkit.pictures.widgets.scene import Scene
from maml_toolkit.prediction.contrast import Contrast


@in_one_look
def still(scene: Scene, columns: Sequence[tuple[str, str]], kind: str, contrast: Contrast | None = None, *,
          title: str, note: str = "") -> bytes:
    """A PNG of slices through the start of a scene: scans with contours, and below them what was made of each.

    Args:
        columns: plane and modality of each column.
        kind: "contribution", in one range around 0, or "attention", from 0 to 1, or "" for neither.
        contrast: in whose log-odds the contribution is a share; of the class that is largest in the picture against
            the background when left out.
        title: above the picture.
        note: a sentence below it.
    """
    views = _views(scene, columns)
    panels = panel_grid(1 + bool(kind), [view.frame_mm for view in views], largest=2.8, beside=0.8,
                        around=1.1 + 0.3 * bool(kind), make=Figure)
    for ax, view, (plane, modality) in zip(panels[0], views, columns, strict=True):
        image(ax, view, modality, outlined=True)
        if len({name for name, _ in columns}) > 1:
            ax.set_title(plane)
    if kind:
        contrast = contrast or Contrast.of(scene.task, views[0].largest_class)
        found = _maps(scene, kind, contrast, {name for _, name in columns})
        cuts = [(view, view.plane.cut(found[name]) if name in found else None, view.of_classes(contrast.classes))
                for view, (_, name) in zip(views, columns, strict=True)]
        maps(panels[1], cuts, kind if kind == "attention" else contrast.label,
             [not_used(name, scene.images) for _, name in columns], "lesion" if kind == "attention" else contrast.name)
        if kind != "attention":
            title += f"\n{contrast.sentence}"
    legend(panels)
    figure = panels[0, 0].figure
    figure.suptitle(title, fontsize=10)
    if note:
        figure.text(0.01, 0.004, note, fontsize=7, color="0.35", wrap=True)
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=90)
    return held.getvalue()


def _views(scene: Scene, columns: Sequence[tuple[str, str]]) -> list[View]:
    """The view of each column; columns in one plane share theirs."""
    images = {name: Volume(scene.images[name], scene.affine) for _, name in columns if name in scene.images}
    windows = {name: window(one.array, scene.task.intensities[name]) for name, one in images.items()}
    classes = {source: Volume(one, scene.affine) for source, one in scene.sources.items()}
    point = (scene.affine @ [*scene.start, 1])[:3]
    views = {name: View.cut(Plane.through(point, classes["prediction"], name), scene.task, images, windows, classes)
             for name in dict.fromkeys(name for name, _ in columns)}
    return [views[name] for name, _ in columns]


def _maps(scene: Scene, kind: str, contrast: Contrast, modalities: Iterable[str]) -> dict[str, Volume]:
    """What the largest answer holds of the maps of these modalities, in the box."""
    found = scene.shares(contrast) if kind == "contribution" else scene.each(kind)
    return {name: Volume(found[name], scene.grid.box_affine) for name in modalities if name in found}
