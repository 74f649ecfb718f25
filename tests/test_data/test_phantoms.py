import numpy as np
import pytest
from scipy.ndimage import center_of_mass
from scipy.ndimage import label as connected

from maml_toolkit.data import volumes
from maml_toolkit.data.phantoms import brains, liver_phases, visible_parts
from maml_toolkit.data.tasks import TASKS

LIVER, BRAIN = TASKS["liver_phases"], TASKS["brats2021"]
KINDS = pytest.mark.parametrize(("make", "task"), [(liver_phases, LIVER), (brains, BRAIN)],
                                ids=["liver", "brain"])


def array(image):
    return np.asarray(image.dataobj)


def assert_same(one, other):
    assert (one.id, one.modalities) == (other.id, other.modalities)
    for part in (*one.modalities, "label"):
        first, second = (case.label if part == "label" else case.images[part] for case in (one, other))
        np.testing.assert_array_equal(array(first), array(second))
        np.testing.assert_array_equal(first.affine, second.affine)


@KINDS
def test_a_phantom_is_read_like_a_file(make, task):
    for case in make(2, size=(20, 24, 28), spacing_mm=(1.0, 2.0, 3.0)):
        assert case.modalities == task.modalities
        label = volumes.read_label(case.label)
        for source in case.images.values():
            image = volumes.read(source)
            assert image.array.shape == label.array.shape == (20, 24, 28)
            assert image.spacing_mm == label.spacing_mm == (1.0, 2.0, 3.0)
            np.testing.assert_array_equal(image.affine, label.affine)
        assert set(np.unique(label.array)) <= task.values
        assert task.encode(label.array).max() > 0


@KINDS
def test_case_i_does_not_depend_on_how_many_are_made(make, task):
    for one, other in zip(make(2, seed=5), make(4, seed=5), strict=False):
        assert_same(one, other)
    assert [case.id.split("-")[1:] for case in make(2, size=8, seed=5)] == [["5", "000"], ["5", "001"]]


@KINDS
def test_cases_and_seeds_differ(make, task):
    labels = [array(case.label) for case in (*make(3, seed=1), *make(3, seed=2))]
    assert len({label.tobytes() for label in labels}) == 6


@KINDS
def test_the_same_patient_comes_in_every_size(make, task):
    small, large = (array(make(1, size=size)[0].label) > 0 for size in (24, 48))
    assert small.mean() == pytest.approx(large.mean(), rel=0.2)
    middles = [np.divide(center_of_mass(label), len(label)) for label in (small, large)]
    np.testing.assert_allclose(*middles, atol=0.03)


@KINDS
def test_missing_scans_are_missing_keys_and_the_others_stay_as_they_are(make, task):
    whole, holed = make(6, size=16), make(6, size=16, missing=0.6)
    assert {len(case.images) for case in holed} >= {1}
    assert sum(len(case.images) for case in holed) < sum(len(case.images) for case in whole)
    for one, other in zip(whole, holed, strict=True):
        assert other.images
        for modality, image in other.images.items():
            np.testing.assert_array_equal(array(image), array(one.images[modality]))


def test_scans_can_be_missing_by_modality_and_one_always_stays():
    assert {case.modalities for case in liver_phases(4, size=8, missing={"venous": 1})} == {("arterial",)}
    assert {len(case.images) for case in brains(4, size=8, missing=1.0)} == {1}


def test_each_phase_of_the_liver_shows_another_part_of_every_tumour():
    for index, case in enumerate(liver_phases(6, seed=3)):
        parts, label = visible_parts(3, index), array(case.label) > 0
        np.testing.assert_array_equal(parts["arterial"] | parts["venous"], label)
        tumours, count = connected(label)
        for tumour in (tumours == number for number in range(1, count + 1)):
            shown = [(part & tumour).sum() / tumour.sum() for part in parts.values()]
            assert max(shown) < 1
            assert sum(shown) > 1, "both phases show where the parts meet"


def test_a_part_of_the_liver_tumour_stands_out_only_where_it_is_visible():
    """Contrast against the liver around: 70 HU up in the arterial, down in the venous phase, else none."""
    found = {"arterial": [], "venous": [], "hidden": []}
    for index, case in enumerate(liver_phases(8)):
        parts = visible_parts(0, index)
        for modality, other in (("arterial", "venous"), ("venous", "arterial")):
            hu, usual = array(case.images[modality]), {"arterial": 70, "venous": 110}[modality]
            found[modality].append(hu[parts[modality]].mean() - usual)
            found["hidden"].append(hu[parts[other] & ~parts[modality]].mean() - usual)
    assert np.mean(found["arterial"]) == pytest.approx(70, abs=20)
    assert np.mean(found["venous"]) == pytest.approx(-70, abs=20)
    assert np.mean(found["hidden"]) == pytest.approx(0, abs=20)


def test_each_phase_of_the_liver_has_lookalikes_of_its_own():
    """Outside the tumours as much is as bright, or as dark, as a tumour; no voxel is both."""
    lookalikes, both, visible = 0, 0, 0
    for index, case in enumerate(liver_phases(8)):
        bright, dark = (array(case.images[name]) for name in case.modalities)
        bright, dark, tumour = bright > 120, (dark < 75) & (dark > 35), array(case.label) > 0
        lookalikes += (bright & ~tumour).sum()
        both += (bright & dark & ~tumour).sum()
        visible += visible_parts(0, index)["arterial"].sum()
    assert lookalikes > 0.5 * visible
    assert both < 0.1 * lookalikes


def test_a_liver_lies_in_a_body_in_air():
    for case in liver_phases(3):
        for image in case.images.values():
            hu = array(image)
            assert 0.005 < (hu < -800).mean() < 0.05
            assert hu.min() == pytest.approx(-1000, abs=100)
            assert 0 < np.median(hu) < 150


def test_a_brain_is_exactly_zero_outside_and_positive_inside():
    for case in brains(3):
        images = np.stack([array(image) for image in case.images.values()])
        inside = images[0] > 0
        assert ((images > 0) == inside).all()
        assert (images[:, ~inside] == 0).all()
        assert not array(case.label)[~inside].any()
        assert 0.1 < inside.mean() < 0.5


def test_each_part_of_a_glioma_shows_in_its_own_sequence():
    contrasts = {}
    for case in brains(12):
        label = array(case.label)
        for modality, image in case.images.items():
            values = array(image)
            for part in set(np.unique(label)) - {0}:
                around = np.median(values[(label == 0) & (values > 0)])
                contrasts.setdefault((modality, int(part)), []).append(values[label == part].mean() - around)
    mean = {key: np.mean(several) for key, several in contrasts.items()}
    assert max(mean, key=lambda key: mean[key] if key[1] == 4 else -np.inf)[0] == "t1ce"
    assert max(mean, key=lambda key: mean[key] if key[1] == 2 else -np.inf)[0] == "flair"
    assert abs(mean["t1ce", 2]) < 60
    assert mean["t1", 1] < -60
    assert mean["t2", 1] > 150


def test_some_gliomas_have_no_enhancing_part_and_all_have_the_rest():
    found = [set(np.unique(array(case.label)).tolist()) for case in brains(20)]
    assert {frozenset(values) for values in found} == {frozenset({0, 1, 2}), frozenset({0, 1, 2, 4})}


@pytest.mark.parametrize("wrong", [
    {"size": 4}, {"seed": -1}, {"count": -1}, {"missing": 1.5}, {"missing": {"t1": 0.5}},
    {"spacing_mm": (1.0, 0.0, 1.0)},
])
def test_arguments_that_make_no_volume_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        liver_phases(**{"count": 1, "size": 8, **wrong})


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.7, 0.9])
def test_the_phases_share_of_the_lesion_what_was_asked_for(overlap):
    parts = [visible_parts(0, index, 40, overlap) for index in range(20)]
    both = sum((one["arterial"] & one["venous"]).sum() for one in parts)
    assert both / sum((one["arterial"] | one["venous"]).sum() for one in parts) == pytest.approx(overlap, abs=0.02)
    (case,) = liver_phases(1, 40, overlap=overlap)
    assert np.array_equal(array(case.label) > 0, parts[0]["arterial"] | parts[0]["venous"])


def test_an_overlap_that_is_no_share_is_refused():
    with pytest.raises(ValueError, match="overlap"):
        liver_phases(1, overlap=1.0)
