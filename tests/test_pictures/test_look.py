"""Colours that colour-blind readers tell apart, outlines that are all seen, and one legend that covers nothing."""

import itertools
import re
from dataclasses import replace

import matplotlib as mpl
import nibabel as nib
import numpy as np
import pytest
from browser import predicted
from matplotlib import pyplot as plt

from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import Case
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.pictures import plots
from maml_toolkit.pictures.plots import look
from maml_toolkit.pictures.report.pages import outlined
from maml_toolkit.pictures.widgets.explorer import HERE

BRATS, LIVER = TASKS["brats2021"], TASKS["liver_phases"]

SEEN = {"as it is": np.eye(3),
        "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                                  [-0.011820, 0.042940, 0.968881]]),
        "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                                [-0.003882, -0.048116, 1.051998]])}
"""Of linear RGB, at full severity: Machado, Oliveira and Fernandes, IEEE Transactions on Visualization 2009."""

APART = 13
"""Of CIELAB's distance; some 2.3 is just noticeable."""

PALETTES = {"regions and sources": (*look.ON_IMAGES, *look.SOURCES.values()), "changes": tuple(look.CHANGES.values()),
            "charts": look.ON_PAPER}


def lab(colour: str, seen: np.ndarray) -> np.ndarray:
    """CIELAB of a colour as a reader sees it, white D65: IEC 61966-2-1 and CIE 15."""
    rgb = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = to_xyz @ np.clip(seen @ linear, 0, 1) / to_xyz.sum(1)
    f = lambda t: np.cbrt(t) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29  # noqa: E731
    return np.array([116 * f(y) - 16, 500 * (f(x) - f(y)), 200 * (f(y) - f(z))])


def test_the_distance_is_that_of_known_colours():
    """White is (100, 0, 0), sRGB's red (53.2, 80.1, 67.2); red and green come near to a deuteranope."""
    np.testing.assert_allclose(lab("#FFFFFF", SEEN["as it is"]), [100, 0, 0], atol=0.1)
    np.testing.assert_allclose(lab("#FF0000", SEEN["as it is"]), [53.24, 80.09, 67.20], atol=0.1)
    plain, blind = (np.linalg.norm(lab("#D62728", SEEN[one]) - lab("#2CA02C", SEEN[one])) for one in list(SEEN)[:2])
    assert blind < plain / 3


@pytest.mark.parametrize("palette", PALETTES)
@pytest.mark.parametrize("seen", SEEN)
def test_colour_blind_readers_tell_the_colours_of_a_palette_apart(palette, seen):
    distances = {(one, other): np.linalg.norm(lab(one, SEEN[seen]) - lab(other, SEEN[seen]))
                 for one, other in itertools.combinations(PALETTES[palette], 2)}
    assert min(distances.values()) > APART, min(distances, key=distances.get)


def test_a_colour_has_one_meaning_and_stands_in_one_place():
    roles = [look.ON_IMAGES, look.SOURCES.values(), look.CHANGES.values(), [look.EDGES], look.ON_PAPER]
    every = [colour for role in roles for colour in role]
    assert len(set(every)) == len(every)
    assert not set(re.findall(r"#[0-9A-F]{6}", (HERE / "explorer.js").read_text().upper())) & set(every)


@pytest.mark.parametrize("name", TASKS)
def test_a_class_has_the_colour_of_the_smallest_region_around_it_and_no_other_class_has_it(name):
    task = TASKS[name]
    colours, regions = look.class_colours(task), look.region_colours(task)
    assert list(colours) == list(task.class_names[1:])
    assert len(set(colours.values())) == len(colours)
    if name == "brats2021":
        assert colours == {"necrosis": regions["TC"], "oedema": regions["WT"], "enhancing": regions["ET"]}


def test_a_value_of_unknown_meaning_has_one_colour_whatever_else_is_in_the_label():
    grey = np.zeros((9, 12), np.uint8)
    for values in ((1, 2, 4), (1, 4), (0, 4)):
        label = np.repeat(np.array(values, np.uint8), 12 // len(values))[None].repeat(9, 0)
        drawn = {tuple(pixel) for pixel in outlined(grey, label).reshape(-1, 3).tolist()} - {(0, 0, 0)}
        assert drawn == {tuple(int(255 * part) for part in mpl.colors.to_rgb(look.ON_IMAGES[value - 1]))
                         for value in values if value}


def test_regions_are_nested_by_what_they_hold():
    assert look.nesting(BRATS) == {"WT": 2, "TC": 1, "ET": 0}
    assert set(look.nesting(TASKS["chaos_t2spir"]).values()) == {0}


def painted(figure, colour: str) -> int:
    """Pixels of a figure that have a colour."""
    figure.set_dpi(200)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    return int((np.abs(pixels - np.multiply(mpl.colors.to_rgb(colour), 255)).max(-1) < 12).sum())


def enhancing_only() -> Case:
    """A case of which every tumour voxel enhances: the outlines of WT, TC and ET are one."""
    (case,) = phantoms.brains(1, size=32)
    label = np.where(np.asarray(case.label.dataobj) > 0, 4, 0).astype(np.uint8)
    return Case(case.id, case.images, nib.Nifti1Image(label, case.label.affine))


@pytest.mark.parametrize("with_prediction", [False, True])
def test_outlines_that_are_one_are_all_seen(with_prediction):
    case = enhancing_only()
    prediction = predicted(case, BRATS, subsets=False) if with_prediction else None
    axes = plots.case_slices(case, BRATS, prediction=prediction)
    for drawn in axes[0].figure.legends:
        drawn.set_visible(False)
    counts = {name: painted(axes[0].figure, colour) for name, colour in look.region_colours(BRATS).items()}
    assert min(counts.values()) > 150, counts


def test_ground_truth_and_prediction_that_agree_are_both_seen():
    (case,) = phantoms.liver_phases(1, size=32)
    found = predicted(case, LIVER, subsets=False)
    agreeing = Case(case.id, case.images, nib.Nifti1Image(found.labels.astype(np.uint8), found.affine))
    axes = plots.side_by_side([agreeing], LIVER, {"both": [found]})
    drawn = axes[0, 0].collections
    assert np.array_equal(drawn[0].get_paths()[0].vertices, drawn[1].get_paths()[0].vertices)
    axes[0, 0].figure.legends[0].set_visible(False)
    axes[0, 0].images[0].set_visible(False)
    axes[0, 0].figure.set_facecolor("0.3")
    assert all(painted(axes[0, 0].figure, colour) > 100 for colour in look.SOURCES.values())


def names(figure) -> list[str]:
    (drawn,) = figure.legends
    return [text.get_text() for text in drawn.texts]


def test_the_legend_names_what_is_drawn_and_nothing_else():
    case = enhancing_only()
    assert names(plots.case_slices(case, BRATS)[0].figure) == ["WT", "TC", "ET", "ground truth"]
    whole = np.where(np.asarray(case.label.dataobj) > 0, 2, 0).astype(np.uint8)
    oedema = replace(case, label=nib.Nifti1Image(whole, case.label.affine))
    assert names(plots.case_slices(oedema, BRATS)[0].figure) == ["WT", "ground truth"]
    empty = replace(case, label=nib.Nifti1Image(0 * whole, case.label.affine))
    assert not plots.case_slices(empty, BRATS)[0].figure.legends


@pytest.mark.parametrize("layout", [None, "constrained"])
def test_a_figure_of_several_plots_has_one_legend_that_covers_no_picture(layout):
    (case,) = phantoms.liver_phases(1, size=24)
    prediction = predicted(case, LIVER, subsets=False)
    figure, axes = plt.subplots(2, 3, figsize=(9, 6), layout=layout)
    plots.case_slices(case, LIVER, prediction=prediction, axes=axes[0, :2])
    plots.contribution_maps(case, prediction, LIVER, axes=axes[1])
    plots.side_by_side([case], LIVER, {"both": [prediction]}, axes=axes[0, 2])
    assert names(figure) == ["tumour, ground truth", "tumour, prediction", "ground truth", "prediction"]
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert not any(box.overlaps(ax.get_tightbbox()) for ax in figure.axes)


def test_a_figure_that_was_cleared_forgets_its_legend():
    (case,) = phantoms.liver_phases(1, size=24)
    figure = plt.figure()
    plots.case_slices(case, LIVER, prediction=predicted(case, LIVER, subsets=False), axes=figure.subplots(1, 2))
    figure.clear()
    plots.case_slices(case, LIVER, axes=figure.subplots(1, 2))
    assert names(figure) == ["tumour, ground truth"]
