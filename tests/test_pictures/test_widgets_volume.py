import base64
import gzip
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from types import SimpleNamespace

import matplotlib as mpl
import nibabel as nib
import numpy as np
import pytest
from browser import predicted

from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import Case
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.data.volumes import Volume
from maml_toolkit.pictures.plots.look import class_colours
from maml_toolkit.pictures.plots.view import PLANES, Plane
from maml_toolkit.pictures.widgets import backends, niivue, view3d
from maml_toolkit.pictures.widgets.scene import sight
from maml_toolkit.pictures.widgets.surface import surface
from maml_toolkit.system.errors import DataError

LIVER, BRAIN = TASKS["liver_phases"], TASKS["brats2021"]
PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def liver():
    (case,) = phantoms.liver_phases(1, size=24)
    return case, predicted(case, LIVER, subsets=False)


@pytest.fixture(scope="module")
def oblique():
    """A sagittal acquisition, turned by 20 degrees, and the same voxels' places in the patient."""
    (case,) = phantoms.liver_phases(1, size=(20, 24, 28))
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[0, 0, 2.5], [-1, 0, 0], [0, -1, 0]])
    affine[:3, 3] = (-30, 12, 7)
    moved = {name: nib.Nifti1Image(image.get_fdata(dtype=np.float32), affine) for name, image in case.images.items()}
    label = nib.Nifti1Image(np.asarray(case.label.dataobj).astype(np.uint8), affine)
    case = Case(case.id, moved, label)
    return case, predicted(case, LIVER, subsets=False)


def middle_mm(mask, affine):
    return affine[:3, :3] @ np.argwhere(mask).mean(0) + affine[:3, 3]


def volumes_of(view):
    return {one.name: nib.Nifti1Image.from_bytes(gzip.decompress(one.data))
            for one in view.widget.children[1].volumes}


def signed_volume(one):
    first, second, third = (one.points[one.faces[:, corner]] for corner in range(3))
    return (first * np.cross(second, third)).sum() / 6


def test_a_surface_is_closed_and_holds_the_volume_of_its_mask():
    ball = (np.sum((np.indices((31, 31, 31)) - 15) ** 2, 0) < 12 ** 2)
    one = surface(ball, np.diag([1, 2, 1, 1.0]))
    assert signed_volume(one) == pytest.approx(2 * ball.sum(), rel=0.03)
    edges = np.sort(np.concatenate([one.faces[:, pair] for pair in ([0, 1], [1, 2], [2, 0])]), 1)
    assert set(np.unique(edges, axis=0, return_counts=True)[1]) == {2}
    np.testing.assert_allclose(np.linalg.norm(one.voxels - 15, axis=1), 12, atol=0.6)


def test_a_single_voxel_and_a_mask_at_the_border_keep_their_surface_and_a_cavity_has_none():
    mask = np.zeros((3, 4, 5), bool)
    assert surface(mask, np.eye(4)) is None
    mask[2, 0, 4] = True
    one = surface(mask, np.eye(4))
    assert 0 < signed_volume(one) < 1
    np.testing.assert_allclose(one.points.mean(0), [2, 0, 4])
    full = np.ones((5, 5, 5), bool)
    hollow = full.copy()
    hollow[2, 2, 2] = False
    np.testing.assert_array_equal(surface(hollow, np.eye(4)).points, surface(full, np.eye(4)).points)


def test_an_mz3_file_holds_points_faces_and_colours():
    one = surface(np.ones((2, 2, 2), bool), np.eye(4))
    held = one.mz3(np.tile([1.0, 0.5, 0.0], (len(one.points), 1)))
    magic, kinds = np.frombuffer(held, "<u2", 2)
    faces, points, skipped = np.frombuffer(held, "<u4", 3, 4)
    assert (magic, kinds, skipped) == (0x5A4D, 0b111, 0)
    assert (faces, points) == (len(one.faces), len(one.points))
    assert len(held) == 16 + 12 * faces + 12 * points + 4 * points
    np.testing.assert_array_equal(np.frombuffer(held, np.uint8)[-4:], [255, 128, 0, 255])


def test_without_a_browser_the_view_is_a_picture(liver):
    view = view3d(*liver)
    bundle = view._repr_mimebundle_()
    assert view.backend == "static"
    assert view.widget is None
    assert set(bundle) == {"image/png", "text/plain"}
    assert base64.b64decode(bundle["image/png"]).startswith(PNG)
    assert "attention to arterial" in bundle["text/plain"]
    assert "papermill" in view.why


def test_before_a_browser_auto_takes_niivue_and_carries_the_picture_too(liver, monkeypatch):
    monkeypatch.setattr(backends, "_looked_at", lambda voila=True: True)
    view = view3d(*liver)
    assert (view.backend, view.why) == ("niivue", "")
    assert {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"} <= set(view._repr_mimebundle_())


def test_without_ipyniivue_niivue_is_a_picture_that_says_how_to_get_it(liver, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)
    monkeypatch.setattr(metadata, "version", missing)
    view = view3d(*liver, backend="niivue")
    assert view.backend == "static"
    assert 'pip install -e ".[view]"' in repr(view)
    monkeypatch.setattr(metadata, "version", lambda name: "1.9.1")
    assert "ipyniivue>=2.4,<3.0 is needed" in view3d(*liver, backend="niivue").why


@pytest.mark.parametrize(("versions", "browser", "answers", "expected"), [
    ({}, True, True, "not installed"),
    ({"itkwidgets": "0.32.6"}, True, True, "itkwidgets is 0.32.6"),
    ({"itkwidgets": "1.0a55", "ngff-zarr": "0.33.0"}, True, True, "ngff-zarr is 0.33.0"),
    ({"itkwidgets": "1.0a55", "ngff-zarr": "0.32.2", "zarr": "2.18.7", "imjoy-jupyterlab-extension": "0.2.6"},
     False, True, "wait for a browser"),
    ({"itkwidgets": "1.0a55", "ngff-zarr": "0.32.2", "zarr": "2.18.7", "imjoy-jupyterlab-extension": "0.2.6"},
     True, False, "cannot be reached"),
])
def test_itkwidgets_is_not_imported_unless_all_it_needs_is_there(liver, monkeypatch, versions, browser, answers,
                                                                expected):
    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(backends, "_looked_at", lambda voila=True: browser)
    monkeypatch.setattr(backends, "_hosts", lambda: ["cdn.example"])
    monkeypatch.setattr(backends, "_answers", lambda host: answers)
    view = view3d(*liver, backend="itkwidgets")
    assert view.backend == "static"
    assert expected in view.why
    assert "itkwidgets" not in sys.modules


def test_every_back_end_says_whether_it_works():
    known = backends.available()
    assert list(known) == ["itkwidgets", "niivue", "static"]
    assert known["static"] == ""
    assert "papermill" in known["niivue"]


def test_a_page_named_in_the_environment_counts_unless_it_is_inherited(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1)))
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(backends, "_parents_environment", dict)
    assert not backends._looked_at()
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    assert backends._looked_at()
    monkeypatch.setattr(backends, "_parents_environment", lambda: {"JPY_SESSION_NAME": "outer.ipynb"})
    assert not backends._looked_at()
    monkeypatch.setenv("VOILA_BASE_URL", "/")
    assert backends._looked_at()
    assert not backends._looked_at(voila=False)


def test_importing_the_package_imports_no_viewer():
    code = ("import sys, maml_toolkit.pictures.widgets; "
            "sys.exit(bool({'ipyniivue', 'itkwidgets', 'ngff_zarr'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(("words", "expected"), [
    ({"backend": "vtk"}, "expected .*auto.*, itkwidgets, niivue, static"),
    ({"map": "saliency"}, "expected 'auto', attention, contribution or None"),
    ({"class_name": "cyst"}, "expected one of background, tumour"),
    ({"modality": "flair"}, "expected one of arterial, venous"),
])
def test_what_is_unknown_is_refused_before_anything_is_drawn(liver, monkeypatch, words, expected):
    monkeypatch.setattr(backends, "still", lambda *arguments, **words: pytest.fail("drawn"))
    with pytest.raises((ValueError, DataError), match=expected):
        view3d(*liver, **words)


def test_a_prediction_of_another_case_and_a_map_that_is_not_there_are_refused(liver, monkeypatch):
    case, prediction = liver
    monkeypatch.setattr(backends, "still", lambda *arguments, **words: pytest.fail("drawn"))
    with pytest.raises(ValueError, match=r"'liver-0-000'.*'other'"):
        view3d(replace(case, id="other"), prediction)
    bare = replace(prediction, maps={"logits": prediction.maps["logits"]})
    with pytest.raises(ValueError, match=r"attention=True"):
        view3d(case, bare, map="attention")
    only = replace(case, images={"venous": case.images["venous"]})
    with pytest.raises(ValueError, match=r"\barterial\b.*\bvenous\b"):
        view3d(only, predicted(only, LIVER, subsets=False), modality="arterial")


def test_auto_takes_the_map_that_is_there(liver):
    case, prediction = liver
    bare = {"logits": prediction.maps["logits"]}
    assert sight(case, prediction, None, "auto", None).map == "attention"
    some = {**bare, "contribution/venous": prediction.maps["contribution/venous"]}
    chosen = sight(case, replace(prediction, maps=some), None, "auto", None)
    assert (chosen.modality, chosen.map) == ("venous", "contribution")
    assert sight(case, replace(prediction, maps=bare), None, "auto", None).map == ""
    assert sight(case, prediction, "portal", None, None).modality == "venous"


def test_attention_is_coloured_from_0_to_1_and_a_contribution_about_0(liver):
    assert sight(*liver, None, "attention", None).scale.get_clim() == (0, 1)
    low, high = sight(*liver, None, "contribution", "tumour").scale.get_clim()
    assert low == -high < 0


@pytest.mark.parametrize("name", PLANES)
def test_a_bright_voxel_lies_where_it_is_in_the_patient_in_each_plane(oblique, name):
    _, prediction = oblique
    voxel = (4, 17, 9)
    array = np.zeros(prediction.grid.shape, np.float32)
    array[voxel] = 1000
    at = prediction.affine[:3, :3] @ voxel + prediction.affine[:3, 3]
    plane = Plane.through(at, Volume(array, prediction.affine), name)
    row, column = np.argwhere(plane.cut(Volume(array, prediction.affine)) > 500)[0]
    np.testing.assert_allclose((plane.to_mm @ [column, row, 0, 1])[:3], at, atol=1e-4)
    to_the_right, upwards, _ = nib.aff2axcodes(plane.to_mm)
    assert (to_the_right, upwards) == (plane.letters[1], plane.letters[2])
    assert {frozenset(plane.letters[:2]), frozenset(plane.letters[2:])} < {frozenset("RL"), frozenset("AP"),
                                                                           frozenset("SI")}


def test_niivue_gets_the_scan_where_the_files_have_it(oblique):
    case, prediction = oblique
    view = view3d(case, prediction, backend="niivue", map="attention")
    scan, map_, outlines = volumes_of(view).values()
    truth = np.asarray(case.label.dataobj) == 1
    inside = [np.round(np.linalg.inv(scan.affine) @ prediction.affine @ [*voxel, 1])[:3].astype(int)
              for voxel in np.argwhere(truth)[::7]]
    values = case.images["arterial"].get_fdata()
    for voxel, place in zip(np.argwhere(truth)[::7], inside, strict=True):
        assert scan.get_fdata()[tuple(place)] == pytest.approx(values[tuple(voxel)], abs=0.51)
    np.testing.assert_allclose(map_.affine, scan.affine)
    np.testing.assert_allclose(outlines.affine, scan.affine)
    mesh = next(one for one in view.widget.children[1].meshes if one.name == "truth.mz3")
    points = np.frombuffer(mesh.data, "<f4", offset=16)
    faces, count = np.frombuffer(mesh.data, "<u4", 2, 4)
    points = points[3 * faces:][:3 * count].reshape(-1, 3)
    np.testing.assert_allclose((points.min(0) + points.max(0)) / 2,
                               np.mean([[f(place) for f in (min, max)] for place in np.array(
                                   [prediction.affine[:3, :3] @ v + prediction.affine[:3, 3]
                                    for v in np.argwhere(truth)]).T], 1), atol=0.8)


def test_niivue_gets_the_map_in_its_colours_and_nothing_outside_of_the_box():
    (case,) = phantoms.brains(1, size=24)
    prediction = predicted(case, BRAIN, subsets=False)
    view = view3d(case, prediction, backend="niivue", modality="t1ce", map="contribution")
    map_ = next(one for one in view.widget.children[1].volumes if one.name.startswith("contribution"))
    chosen = sight(case, prediction, "t1ce", "contribution", None)
    coded = np.asarray(volumes_of(view)["contribution.nii.gz"].dataobj).astype(int)
    outside = np.ones(coded.shape, bool)
    outside[prediction.grid.box_slices] = False
    assert (coded[outside] == 0).all()
    lut = np.array(map_.colormap_label.lut).reshape(-1, 4)
    strong = np.abs(chosen.values) > 0.3 * chosen.scale.get_clim()[1]
    drawn = lut[coded[prediction.grid.box_slices][strong]]
    wanted = chosen.scale.to_rgba(chosen.values[strong], bytes=True)
    assert np.abs(drawn[:, :3] - wanted[:, :3].astype(int)).max() <= 6
    assert (drawn[:, 3] == 255).all()
    assert (lut[:niivue.FIRST, 3] == 0).all()
    assert {one.name for one in view.widget.children[1].meshes} == {"truth.mz3", "prediction.mz3"}


def test_any_attention_is_drawn_where_the_network_was_run_and_every_outline_is_in_the_legend():
    task = TASKS["brats2015"]
    (case,) = phantoms.brains(1, size=24)
    prediction = predicted(case, task, subsets=False)
    view = view3d(case, prediction, backend="niivue", modality="t1ce", map="attention")
    map_ = next(one for one in view.widget.children[1].volumes if one.name.startswith("attention"))
    assert (np.array(map_.colormap_label.lut).reshape(-1, 4)[niivue.FIRST:, 3] == 255).all()
    drawn = [name for number, name in enumerate(task.class_names) if number and (prediction.classes == number).any()]
    colours = {name: class_colours(task)[name].lower() for name in drawn}
    assert drawn
    assert all(f"background:{colour}" in view.widget.children[0].value for colour in colours.values())


def test_regions_have_their_colours_and_a_slider_each():
    (case,) = phantoms.brains(1, size=24)
    view = view3d(case, predicted(case, BRAIN, subsets=False), backend="niivue", map=None)
    _, drawn, sliders = view.widget.children
    assert [one.description for one in sliders.children][:3] == ["scan", "outlines", "ground truth"]
    colours = {one.name: one.rgba255 for one in drawn.meshes}
    assert colours["WT.mz3"][:3] == [round(255 * part) for part in mpl.colors.to_rgb("#56B4E9")]
    assert sliders.children[-1].value == 1


def test_a_large_scan_is_thinned_where_its_voxels_are_finest(liver, monkeypatch):
    monkeypatch.setattr(niivue, "VOXELS", 24 * 24 * 12)
    scan = volumes_of(view3d(*liver, backend="niivue", map=None))["scan.nii.gz"]
    assert sorted(scan.shape) == [12, 24, 24]
    assert sorted(nib.affines.voxel_sizes(scan.affine)) == [1, 1, 2]


def test_itk_gets_labels_in_its_directions(oblique):
    case, prediction = oblique
    image, labels, spacing, origin = backends.itk_arrays(sight(case, prediction, None, "attention", None))
    assert image.shape == (*labels.shape, 2)
    place = np.argwhere(labels == 1).mean(0) * spacing + origin
    expected = middle_mm(prediction.classes == 1, prediction.affine) * [-1, -1, 1]
    np.testing.assert_allclose(place[::-1], expected, atol=0.6)


def test_cells_that_wait_for_itkwidgets_are_let_go():
    told = []
    watcher = SimpleNamespace(viewers=SimpleNamespace(not_created=["one"]),
                              update_viewer_status=lambda name, ready: told.append((name, ready)))
    backends._let_go(watcher)
    assert told == [("one", True)]


def test_a_case_without_lesion_or_truth_is_drawn(liver):
    case, prediction = liver
    logits = np.zeros_like(prediction.maps["logits"])
    logits[0] = 9
    empty = replace(prediction, maps={**prediction.maps, "logits": logits})
    for backend in ("static", "niivue"):
        assert view3d(replace(case, label=None), empty, backend=backend).png.startswith(PNG)
