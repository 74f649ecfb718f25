"""The picture of a registration shows both scans where they lie, upright, before and after."""

import nibabel as nib
import numpy as np
import pytest
from matplotlib import pyplot as plt

from maml_toolkit.data.volumes import Volume
from maml_toolkit.pictures.plots.slices import registration_check
from maml_toolkit.registration import RECIPES, Registration, Transform, checks

AFFINE = nib.affines.from_matvec(np.diag([2.0, 2, 3]), [-31, -35, -28])
SHIFT = np.array([8.0, 0, 0])


def head(shift_mm=(0, 0, 0), codes="RAS") -> Volume:
    """A ball, on the patient's right (high i, here at x = 9) a bright spot, and a brighter one at the top."""
    place = nib.affines.apply_affine(AFFINE, np.moveaxis(np.indices((32, 36, 20)), 0, -1)) - shift_mm
    array = 100.0 * (np.linalg.norm(place, axis=-1) < 24)
    array[np.linalg.norm(place - [9, 0, 0], axis=-1) < 6] = 300
    array[np.linalg.norm(place - [0, 0, 16], axis=-1) < 6] = 400
    image = nib.Nifti1Image(array.astype(np.float32), AFFINE)
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(AFFINE),
                                                                 nib.orientations.axcodes2ornt(codes)))
    return Volume(np.asarray(turned.dataobj), turned.affine)


def registration(shift_mm=SHIFT) -> Registration:
    transform = Transform.linear(nib.affines.from_matvec(np.eye(3), shift_mm))
    before, after = checks.measured(head(), head(SHIFT), [Transform.identity(), transform], "mr")
    return Registration(transform, before, after, RECIPES["mr"], 1.0)


def shown(ax) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def test_after_the_registration_both_scans_are_one_picture():
    axes = registration_check(head(), head(SHIFT), registration())
    alone = registration_check(head(), head(), registration((0, 0, 0)))
    np.testing.assert_allclose(shown(axes[1, 0]), shown(alone[0, 0]), atol=1e-4)
    assert np.abs(shown(axes[0, 0]) - shown(alone[0, 0])).max() > 0.2


def test_the_patients_right_is_on_the_left_and_the_head_at_the_top():
    axial, _, coronal, _ = registration_check(head(), head(SHIFT), registration(), at_mm=(0, 0, 0))[1]
    _, column = np.argwhere(shown(axial) > 0.7).mean(0)
    assert column == pytest.approx(31 - (9 + 31) / 2, abs=0.6)
    row, _ = np.argwhere(shown(coronal) > 0.95).mean(0)
    assert row == pytest.approx((16 + 28) / 3, abs=0.6)
    letters = {text.get_text(): text.get_position() for text in coronal.texts}
    assert letters["S"][1] > letters["I"][1]
    assert letters["R"][0] < letters["L"][0]


@pytest.mark.parametrize("codes", ["LPS", "PIR"])
def test_the_order_of_the_axes_in_the_file_does_not_change_the_picture(codes):
    pictures = [[shown(ax) for ax in registration_check(head(codes=one), head(SHIFT, one), registration(),
                                                        at_mm=(1, 1, 1)).ravel()] for one in ("RAS", codes)]
    for one, other in zip(*pictures, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_titles_give_the_mutual_information_before_and_after():
    found = registration()
    axes = registration_check(head(), head(SHIFT), found, planes=("axial",))
    assert axes.shape == (2, 2)
    assert axes[0, 0].get_title() == f"axial, before: NMI {found.before.nmi:.3f}"
    assert axes[1, 0].get_title() == f"axial, after: NMI {found.after.nmi:.3f}"


def test_the_edges_are_those_of_the_fixed_scan():
    axes = registration_check(head(), head(SHIFT), registration(), at_mm=(0, 0, 0))
    before, after = (np.vstack([path.vertices for path in ax.collections[0].get_paths()]) for ax in axes[:, 1])
    np.testing.assert_array_equal(before, after)


def test_the_legend_says_whose_edges_are_drawn():
    figure = registration_check(head(), head(SHIFT), registration(), names=("arterial", "venous"))[0, 0].figure
    assert [text.get_text() for text in figure.legends[0].texts] == ["edges of arterial over venous"]


def test_given_axes_are_drawn_into_and_unknown_planes_are_refused():
    axes = plt.subplots(2, 2)[1]
    assert registration_check(head(), head(SHIFT), registration(), planes=("coronal",), axes=axes).tolist() \
        == axes.tolist()
    with pytest.raises(ValueError, match="found the planes"):
        registration_check(head(), head(SHIFT), registration(), planes=("sagittal",))
    with pytest.raises(ValueError, match=r"\b4 axes.*\b8\b"):
        registration_check(head(), head(SHIFT), registration(), axes=axes)


def test_ct_is_shown_in_a_window_of_soft_tissue():
    scan = Volume(head().array * 2 - 150, AFFINE)
    found = Registration(Transform.identity(), registration().before, registration().after, RECIPES["liver_phases"], 1)
    picture = shown(registration_check(scan, scan, found, at_mm=(0, 0, 0))[0, 0])
    assert picture[0, 0] == 0      # by hand: -150 HU is black; the brightest 0.7 % are 450 and 650 HU, half each
    assert picture[18, 20] == pytest.approx((50 + 150) / (450 + 150))
    assert picture.max() == 1
