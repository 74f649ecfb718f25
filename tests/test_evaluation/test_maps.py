"""Maps by hand: a linear method whose contributions are what it goes by, and maps that are broken on purpose."""

import copy
import itertools
from fnmatch import fnmatchcase

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage, stats
from torch import nn

from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import Case
from maml_toolkit.data.prepared import Grid
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.evaluation.explaining.learned import (
    MAML_LAYERS,
    randomisation,
    repeatability,
    untrained,
)
from maml_toolkit.evaluation.explaining.maps import (
    COLUMNS,
    claims,
    completeness,
    evidence,
    map_scores,
    map_summary,
    pointing_game,
    right_modality,
)
from maml_toolkit.evaluation.explaining.perturbation import areas, deletion
from maml_toolkit.evaluation.worth import spearman
from maml_toolkit.methods import Method, build
from maml_toolkit.methods.method import Segmentation
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.system.errors import DataError

LIVER = TASKS["liver_phases"]
BRIGHT = Task("bright", ("a", "b"), {"background": 0, "tumour": 1}, intensities="ct")
TASK = Task("two", ("a", "b"), {"background": 0, "core": 1, "rim": 2})
SHAPE = (4, 6, 8)
WINDOW = (16, 16, 16)


class Linear(Method):
    """logit of the tumour = w_a · a + w_b · b - 7, voxel by voxel: its contributions are all that it goes by."""

    name = "linear"

    def __init__(self, modalities, classes, channels=(1, 1), *, weights=(2.0, 2.0), **unet):
        super().__init__(modalities, classes, channels, own={"weights": list(weights)}, **unet)
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, images):
        own = {name: weight * images[name] for name, weight in zip(self.modalities, self.weights, strict=True)}
        terms = {name: torch.cat([torch.zeros_like(one), one], 1) for name, one in own.items()}
        bias = torch.tensor([0.0, -7.0])
        logits = sum(terms.values()) + bias[:, None, None, None]
        return Segmentation(logits, bias=bias, explain=lambda: self.told(terms))

    def told(self, terms):
        return terms

    def loss(self, images, labels, generator):
        return {"total": self.weights.sum()}


class Upturned(Linear):
    """Says of each voxel the opposite of what it goes by."""

    def told(self, terms):
        return {name: -one for name, one in terms.items()}


def predictor(method=Linear, **settings):
    return Predictor(method(BRIGHT.modalities, 2, **settings), BRIGHT, WINDOW, precision="float32")


def bright(number=0):
    """Noise of 5 in which a shows one half of a tumour of 4 x 4 x 8 voxels and b the other, by 100, and the masks."""
    random, shown = np.random.default_rng(number), {name: np.zeros(WINDOW, bool) for name in "ab"}
    shown["a"][4:8, 4:8, 4:8] = shown["b"][4:8, 4:8, 8:12] = True
    images = {name: image(100 * mask + random.normal(0, 5, WINDOW)) for name, mask in shown.items()}
    return Case(f"bright-{number}", images, image(shown["a"] | shown["b"])), shown


def image(array):
    found = nibabel.Nifti1Image(array.astype(np.uint8 if array.dtype == bool else np.float32), np.eye(4))
    found.header.set_xyzt_units("mm")
    return found


def maml(seed=0, **settings):
    torch.manual_seed(seed)
    method = build("maml", modalities=LIVER.modalities, classes=2, channels=(4, 6), **settings)
    return Predictor(method, LIVER, WINDOW, precision="float32", run=f"seed {seed}")


@pytest.fixture(scope="module")
def cases():
    return phantoms.liver_phases(3, size=16)


@pytest.fixture(scope="module")
def shown(cases):
    return {case.id: phantoms.visible_parts(0, i, 16) for i, case in enumerate(cases)}


def prediction(maps, modalities=("a", "b"), spacing=1.0, **more):
    """A prediction whose working grid is the file's own."""
    affine = tuple(tuple(row) for row in np.diag([spacing] * 3 + [1.0]).tolist())
    grid = Grid(SHAPE, affine, tuple((0, n) for n in SHAPE), SHAPE)
    return Prediction("x", TASK, modalities, grid, {name: np.float32(one) for name, one in maps.items()}, **more)


def peak(*place, value=1.0, low=0.0):
    """A map that is low but for one voxel."""
    found = np.full(SHAPE, low)
    found[place] = value
    return found


def for_class(label, values):
    """Contributions that say something of one class only."""
    terms = np.zeros((3, *SHAPE))
    terms[label] = values
    return terms


def mask(*places):
    found = np.zeros(SHAPE, bool)
    for place in places:
        found[place] = True
    return found


@pytest.fixture
def truth():
    """Two voxels of core at (1, 2, 1:3), one of rim at (1, 2, 3)."""
    found = np.zeros(SHAPE, np.uint8)
    found[1, 2, 1:3], found[1, 2, 3] = 1, 2
    return found


def test_evidence_is_the_difference_to_the_background():
    terms = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    found = prediction({"contribution/a": terms, "attention/a": terms[0], "logits": terms}, ("a",))
    np.testing.assert_array_equal(evidence(found, "contribution", 2)["a"], terms[2] - terms[0])
    np.testing.assert_array_equal(evidence(found, "attention", 2)["a"], terms[0])
    np.testing.assert_array_equal(evidence(found, "answer", 1)["all"], terms[1] - terms[0])
    with pytest.raises(ValueError, match="kind='gradient'"):
        evidence(found, "gradient")


def test_contributions_speak_for_each_class_and_attention_for_the_lesion(truth):
    found = prediction({"contribution/a": np.zeros((3, *SHAPE)), "attention/a": np.zeros(SHAPE)}, ("a",))
    claimed = [(kind, label, int(lesion.sum())) for kind, label, lesion, _ in claims(found, truth)]
    assert claimed == [("contribution", "core", 2), ("contribution", "rim", 1), ("attention", "", 3)]
    assert list(claims(found, np.zeros_like(truth))) == []


def test_contributions_that_add_up_are_complete():
    random = np.random.default_rng(0)
    terms = {f"contribution/{name}": random.normal(size=(3, *SHAPE)) for name in "ab"}
    bias = np.float32([0.5, -1, 2])
    logits = sum(terms.values()) + bias[:, None, None, None]
    found = completeness(prediction({**terms, "logits": logits}, bias=bias))
    assert tuple(found) == COLUMNS
    assert found["value"].item() < 1e-6
    assert found["count"].item() == np.prod(SHAPE)


def test_one_voxel_that_does_not_add_up_is_found():
    terms = {f"contribution/{name}": np.ones((3, *SHAPE)) for name in "ab"}
    logits = np.full((3, *SHAPE), 2.0)
    logits[2, 3, 5, 7] += 0.01
    assert completeness(prediction({**terms, "logits": logits}))["value"].item() == pytest.approx(0.01, rel=1e-4)
    with pytest.raises(ValueError, match=r"case x .*contributions=True"):
        completeness(prediction({"logits": logits}))


def test_the_networks_own_contributions_are_complete(cases):
    scores = map_scores(maml(), cases)
    found = scores[scores["measure"] == "completeness"]
    assert len(found) == len(cases)
    assert found["value"].max() < 1e-4
    upturned = map_scores(predictor(Upturned), [bright()[0]])
    assert upturned.loc[upturned["measure"] == "completeness", "value"].min() > 1


def pointing(maps, truth, shown=None, **more):
    found = pointing_game(prediction(maps, **more), truth, shown)
    return found.set_index(["class", "modality", "measure"])


def test_the_pointing_game_by_hand(truth):
    """The core ends at column 2: a peak at column 5 is 3 mm away and a hit, at column 6 it is 4 mm away and none."""
    maps = {"contribution/a": for_class(1, peak(1, 2, 5)), "contribution/b": for_class(1, peak(1, 2, 6))}
    found = pointing(maps, truth)["value"]
    assert found["core", "a"].to_dict() == {"pointing": 1, "pointing_mm": pytest.approx(3)}
    assert found["core", "b"].to_dict() == {"pointing": 0, "pointing_mm": pytest.approx(4)}
    finer = pointing(maps, truth, spacing=0.5)["value"]
    assert finer["core", "b"].to_dict() == {"pointing": 1, "pointing_mm": pytest.approx(2)}


def test_the_target_is_what_the_modality_shows(truth):
    maps = {"attention/a": peak(1, 2, 1), "attention/b": peak(1, 2, 1)}
    found = pointing(maps, truth, {"a": mask((1, 2, 1)), "b": mask((1, 2, 3))})["value"]
    assert found["", "a", "pointing_mm"] == 0
    assert found["", "b", "pointing_mm"] == pytest.approx(2)
    assert set(pointing(maps, truth, {"a": mask((1, 2, 1)), "b": mask()}).index.get_level_values("modality")) == {"a"}


def test_the_chance_of_pointing_is_the_share_of_voxels_near_the_target():
    truth = np.zeros(SHAPE, np.uint8)
    truth[0, 0, 0] = 1
    found = pointing({"attention/a": peak(0, 0, 0)}, truth, modalities=("a",))["chance"]["", "a", "pointing"]
    every = np.stack(np.indices(SHAPE), -1)
    assert found == pytest.approx((np.linalg.norm(every, axis=-1) <= 3).mean())


def test_a_map_that_is_negative_everywhere_still_points_inside_the_box(truth):
    grid = Grid(SHAPE, tuple(tuple(row) for row in np.eye(4).tolist()), ((0, 4), (0, 6), (0, 4)), (4, 6, 4))
    maps = {"contribution/a": for_class(1, peak(1, 2, 1, value=-1, low=-2))[..., :4].astype(np.float32)}
    found = pointing_game(Prediction("x", TASK, ("a",), grid, maps), truth)
    assert found.query("measure == 'pointing_mm' and `class` == 'core'")["value"].item() == 0


def test_the_right_modality_by_hand(truth):
    """a shows columns 1 and 2, b 2 and 3, so each alone shows one voxel; a's map is the larger one everywhere."""
    maps = {"attention/a": np.full(SHAPE, 0.9), "attention/b": np.full(SHAPE, 0.5)}
    shown = {"a": mask((1, 2, 1), (1, 2, 2)), "b": mask((1, 2, 2), (1, 2, 3))}
    logits = np.zeros((3, *SHAPE))
    logits[1, 1, 2, 1] = 1          # only the first voxel is given its class
    found = right_modality(prediction({**maps, "logits": logits}), truth, shown)
    assert found[["modality", "measure", "value", "count", "chance"]].values.tolist() == [
        ["a", "right_modality", 1, 1, 0.5], ["a", "right_modality_found", 1, 1, 0.5],
        ["b", "right_modality", 0, 1, 0.5]]


def test_the_right_modality_is_that_of_the_true_class(truth):
    """Of the core a speaks and of the rim b; where one shows a class alone, what is said of others does not count."""
    maps = {"contribution/a": for_class(1, np.ones(SHAPE)), "contribution/b": for_class(2, np.ones(SHAPE)),
            "logits": np.zeros((3, *SHAPE))}
    shown = {"a": truth == 1, "b": truth == 2}
    found = right_modality(prediction(maps), truth, shown).query("measure == 'right_modality'")
    assert found.set_index("modality")["value"].to_dict() == {"a": 1, "b": 1}
    swapped = right_modality(prediction(maps), truth, {"a": truth == 2, "b": truth == 1})
    assert set(swapped["value"]) == {0}


def test_what_is_shown_outside_the_lesion_does_not_count(truth):
    maps = {"attention/a": np.ones(SHAPE), "attention/b": np.zeros(SHAPE), "logits": np.zeros((3, *SHAPE))}
    found = right_modality(prediction(maps), truth, {"a": np.ones(SHAPE, bool), "b": mask()})
    assert found["count"].tolist() == [3]


def test_masks_and_truth_that_do_not_fit_are_refused(truth):
    found = prediction({"attention/a": np.ones(SHAPE), "attention/b": np.ones(SHAPE), "logits": np.zeros((3, *SHAPE))})
    with pytest.raises(ValueError, match=r"case x: .*\(1, 6, 8\).*\(4, 6, 8\)"):
        pointing_game(found, truth[:1])
    with pytest.raises(ValueError, match=r"case x: .*\bb\b"):
        right_modality(found, truth, {"a": mask()})
    with pytest.raises(ValueError, match=r"case x .*\ba\b.*modalities"):
        right_modality(prediction({"attention/a": np.ones(SHAPE)}, ("a",)), truth, {"a": mask()})


def test_scores_of_cases_are_one_tidy_table(cases, shown):
    found = map_scores(maml(), cases, shown)
    assert tuple(found) == COLUMNS
    assert found[["method", "run"]].drop_duplicates().values.tolist() == [["maml", "seed 0"]]
    assert set(found["measure"]) == {"completeness", "pointing", "pointing_mm", "right_modality",
                                     "right_modality_found"} & set(found["measure"])
    assert not map_scores(maml(), cases)["measure"].str.startswith("right").any()
    attention = found.query("measure == 'right_modality' and map == 'attention'")
    alone = sum(int((np.logical_xor(*one.values())).sum()) for one in shown.values())
    assert attention["count"].sum() == alone


def test_a_method_whose_map_is_what_it_goes_by_names_the_right_modality():
    case, shown = bright()
    for method, expected in ((Linear, 1), (Upturned, 0)):
        found = map_scores(predictor(method), [case], {case.id: shown}).set_index(["measure", "modality"])["value"]
        for name in "ab":
            assert found["right_modality", name] == found["right_modality_found", name] == expected
            assert found["pointing", name] == expected


def test_several_classes_on_a_cropped_grid_of_coarse_slices_have_scores_too():
    task, case = TASKS["brats2021"], phantoms.brains(1, size=(16, 20, 16), spacing_mm=(1, 1, 2.5))[0]
    label = np.asarray(case.label.dataobj)
    torch.manual_seed(0)
    method = build("maml", modalities=task.modalities, classes=4, channels=(4, 6))
    found = map_scores(Predictor(method, task, WINDOW), [case], {case.id: {
        "t1": label == 1, "t1ce": label == 4, "t2": label > 0, "flair": label > 0}})
    assert found.loc[found["measure"] == "completeness", "value"].item() < 1e-4
    pointing = found[found["measure"] == "pointing"]
    assert pointing["chance"].between(0, 1, inclusive="neither").all()
    shown = pointing[pointing["map"] == "contribution"].groupby("modality")["class"].unique()
    assert len(shown["t1"]) == len(shown["t1ce"]) == 1
    assert len(shown["flair"]) == len(np.unique(label)) - 1
    assert not found["measure"].str.startswith("right").any()      # what t1 or t1ce shows, flair shows too


def test_what_cannot_be_scored_is_refused(cases, shown):
    early = Predictor(build("early_fusion", modalities=LIVER.modalities, classes=2, channels=(4, 6)), LIVER, WINDOW)
    with pytest.raises(ValueError, match=r"case liver-0-000 .*maps"):
        map_scores(early, cases)
    with pytest.raises(ValueError, match=r"liver-0-001.*shown"):
        map_scores(maml(), cases, {cases[0].id: shown[cases[0].id], cases[2].id: shown[cases[2].id]})
    with pytest.raises(DataError, match=r"\bbare\b"):
        map_scores(maml(), [Case("bare", cases[0].images)])


def test_the_summary_counts_every_voxel_once():
    scores = pd.DataFrame([{"case": case, "method": "maml", "run": "r", "map": "attention", "class": "",
                            "modality": name, "measure": "right_modality", "value": value, "count": count,
                            "chance": 0.5} for case, name, value, count in (
        ("x", "a", 1.0, 30), ("y", "a", 0.5, 10), ("x", "b", 0.0, 60), ("y", "b", np.nan, 0))])
    found = map_summary(scores, resamples=99).set_index("modality")
    assert found["value"].to_dict() == {"a": pytest.approx(35 / 40), "b": 0, "all": pytest.approx(0.35)}
    assert found["cases"].to_dict() == {"a": 2, "b": 1, "all": 2}
    assert found["chance"].tolist() == [0.5] * 3
    assert found.loc["a", "low"] == 0.5
    assert found.loc["a", "high"] == 1
    assert np.isnan(found.loc["b", ["low", "high"]].astype(float)).all()


def test_the_interval_of_a_summary_holds_the_trainings_where_there_are_several():
    """Three trainings with 0.4, 0.5 and 0.6 in each of four cases: t of 2 degrees of freedom, no spread over cases."""
    scores = pd.DataFrame([{"case": case, "method": "maml", "run": run, "map": "attention", "class": "",
                            "modality": "a", "measure": "right_modality", "value": value, "count": 10, "chance": 0.5}
                           for case in "wxyz" for run, value in (("0", 0.4), ("1", 0.5), ("2", 0.6))])
    found = map_summary(scores, resamples=99).iloc[0]
    arm = 4.302653 * 0.1 / np.sqrt(3)
    assert found[["value", "low", "high"]].tolist() == pytest.approx([0.5, 0.5 - arm, 0.5 + arm])
    assert found["holds"] == "trainings and cases"
    alone = map_summary(scores[scores["run"] == "2"], resamples=99).iloc[0]
    assert alone[["value", "low", "high", "holds"]].tolist() == [pytest.approx(0.6)] * 3 + ["cases only"]


def test_the_summary_of_completeness_is_the_worst_case():
    scores = pd.DataFrame([{"case": case, "method": "maml", "run": "r", "map": "contribution", "class": "",
                            "modality": "all", "measure": "completeness", "value": value, "count": 10,
                            "chance": np.nan} for case, value in (("x", 1e-6), ("y", 3e-6))])
    assert map_summary(scores)["value"].item() == 3e-6


@pytest.fixture(scope="module")
def curves():
    pair = [bright(number)[0] for number in range(2)]
    return {method: deletion(predictor(method), pair, steps=6, block=2) for method in (Linear, Upturned)}


def test_curves_start_and_end_alike_in_every_order(curves):
    found = curves[Linear]
    assert set(found["order"]) == {"contribution", "distance", "random"}
    assert found["value"].between(0, 1).all()
    assert sorted(found["share"].unique()) == pytest.approx([(step / 6) ** 2 for step in range(7)])
    for share in (0, 1):
        one = found[found["share"] == share].groupby(["case", "measure"])["value"]
        np.testing.assert_array_equal(one.max(), one.min())
    ends = found[found["share"] == 1].groupby(["case", "measure"])["value"].first()
    starts = found[found["share"] == 0].groupby(["case", "measure"])["value"].first()
    assert (starts[:, "deletion"] == ends[:, "insertion"]).all()
    assert (starts[:, "insertion"] == ends[:, "deletion"]).all()


def test_the_whole_scans_and_none_are_the_ends_of_a_curve():
    """Linear answers sigmoid(-7) where both images are 0, and all that it predicted is near enough to be replaced."""
    case, _ = bright()
    answer = predictor()(case)
    found = deletion(predictor(), [case], steps=1).query("measure == 'deletion'").groupby("share")["value"].first()
    assert found[1] == pytest.approx(1 / (1 + np.exp(7)))
    assert found[0] == pytest.approx(answer.probabilities[1][answer.classes == 1].mean())


def gains(curves, over):
    found = areas(curves)
    return found[found["measure"].str.endswith(f"_over_{over}") & (found["map"] == "contribution")]["value"]


def test_a_perfect_map_is_better_than_chance_and_its_opposite_is_worse(curves):
    assert len(gains(curves[Linear], "random")) == 4      # two cases, deletion and insertion
    assert (gains(curves[Linear], "random") > 0.2).all()
    assert (gains(curves[Upturned], "random") < -0.1).all()


def test_with_parts_on_the_lesion_alone_a_perfect_map_is_better_than_distance():
    """There only the modality can matter, of which the distance knows nothing."""
    for method, sign in ((Linear, 1), (Upturned, -1)):
        on_it = deletion(predictor(method), [bright()[0]], steps=6, block=2, reach_mm=0)
        assert (sign * gains(on_it, "distance") > 0.1).all()


def test_deletion_of_one_part_by_hand():
    """Two steps: a quarter of the 4 parts is one modality's cube with its bright half of the tumour; that half goes."""
    case, shown = bright()
    answer = predictor()(case)
    found = deletion(predictor(), [case], steps=2, block=8, reach_mm=0).query("order == 'contribution'")
    values = found.set_index(["measure", "share"])["value"]
    halves = [answer.probabilities[1][mask].sum() / (answer.classes == 1).sum() for mask in shown.values()]
    assert min(abs(values["deletion", 0.25] - half) for half in halves) < 0.01
    assert values["insertion", 0.25] == pytest.approx(1 - values["deletion", 0.25], abs=0.02)


def test_areas_by_hand():
    """Deletion 1 -> 0 in a straight line: 0.5; at random 0.75 and 0.25 of two seeds: 0.5; by distance at once: 0."""
    def curve(order, seed, middle):
        return [{"case": "x", "method": "m", "run": "", "class": "tumour", "order": order, "seed": seed,
                 "measure": "deletion", "share": share, "value": value}
                for share, value in ((0, 1.0), (0.5, middle), (1, 0.0))]
    table = pd.DataFrame([*curve("attention", 0, 0.25), *curve("random", 0, 0.75), *curve("random", 1, 0.25),
                          *curve("distance", 0, 0.0)])
    found = areas(table).set_index(["map", "measure"])["value"]
    assert found["attention", "deletion_area"] == pytest.approx(0.375)
    assert found["random", "deletion_area"] == pytest.approx(0.5)
    assert found["attention", "deletion_over_random"] == pytest.approx(0.125)
    assert found["attention", "deletion_over_distance"] == pytest.approx(-0.125)
    assert ("random", "deletion_over_random") not in found.index
    with pytest.raises(ValueError, match="deletion"):
        areas(table.iloc[:0])


def test_the_surroundings_replace_by_the_median_beside_the_lesion():
    case, _ = bright()
    prepared = prepare(case, BRIGHT)
    far = ndimage.distance_transform_edt(prepared.labels == 0)
    assert ((predictor().predict(prepared).classes == 1) == (far == 0)).all()
    logit = 2 * sum(np.median(image[(far > 0) & (far <= 10)]) for image in prepared.images.values()) - 7
    found = deletion(predictor(), [case], steps=1, neutral="surroundings").query("measure == 'deletion' and share == 1")
    assert found["value"].iloc[0] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-4)


def test_what_is_exactly_zero_stays_when_parts_are_replaced():
    """Outside a skull-stripped brain there is nothing to replace."""
    case, _ = bright()
    empty = np.asarray(case.images["a"].dataobj).copy()
    empty[:, :, 11:] = 0
    task = Task("mr", ("a", "b"), {"background": 0, "tumour": 1})
    seen = []
    one = Predictor(Linear(("a", "b"), 2), task, WINDOW, precision="float32")
    one.method.register_forward_pre_hook(lambda _, given: seen.append(given[0]["a"]))
    deletion(one, [Case("x", {"a": image(empty), "b": case.images["b"]})], steps=2, neutral="surroundings")
    assert len(seen) > 3
    assert all((images[..., 11:] == 0).all() for images in seen)


def test_a_case_without_a_predicted_lesion_has_no_curve():
    assert deletion(predictor(weights=(0.0, 0.0)), [bright()[0]]).empty


def test_a_case_without_label_has_its_curves_too():
    case, _ = bright()
    bare = deletion(predictor(), [Case(case.id, case.images)], steps=2)
    pd.testing.assert_frame_equal(bare, deletion(predictor(), [case], steps=2))


def test_deletion_refuses_what_makes_no_curve(cases):
    with pytest.raises(ValueError, match="neutral='blur'"):
        deletion(predictor(), [bright()[0]], neutral="blur")
    for wrong, said in (({"steps": 0}, "steps=0"), ({"block": 0}, "block=0"), ({"seeds": ()}, r"seeds=\[\]"),
                        ({"reach_mm": -1.0}, "reach_mm=-1")):
        with pytest.raises(ValueError, match=said):
            deletion(predictor(), [bright()[0]], **wrong)
    early = Predictor(build("early_fusion", modalities=LIVER.modalities, classes=2, channels=(4, 6)), LIVER, WINDOW)
    with pytest.raises(ValueError, match=r"case liver-0-000 .*maps"):
        deletion(early, cases)


@pytest.fixture(scope="module")
def drawn(cases):
    trained = maml()
    before = copy.deepcopy(trained.method.state_dict())
    found = randomisation(trained, cases[:1], seeds=(1, 2))
    for name, value in trained.method.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)     # the given model is unchanged
    return found


def test_randomising_nothing_leaves_the_maps_as_they_are(drawn):
    nothing = drawn[drawn["layer"] == "nothing"]
    assert set(nothing["map"]) == {"contribution", "attention", "answer"}
    np.testing.assert_allclose(nothing["value"], 1)


def test_layers_are_drawn_one_after_another(drawn):
    assert list(drawn["layer"].unique()) == ["nothing", *MAML_LAYERS]
    assert tuple(drawn) == (*COLUMNS, "layer", "seed")
    attention = drawn[drawn["map"] == "attention"].groupby("layer")["value"]
    np.testing.assert_allclose(attention.get_group("classifier"), 1)          # attention lies before the classifier
    assert (attention.get_group("fusion") < 0.999).all()
    assert (drawn.query("map == 'contribution' and layer == 'classifier'")["value"] < 0.999).all()


def test_every_parameter_of_the_joint_answer_belongs_to_one_layer():
    names = [name for name, _ in maml().method.named_parameters() if not name.startswith("heads.")]
    for name in names:
        assert sum(fnmatchcase(name, pattern) for pattern in MAML_LAYERS.values()) == 1
    for name, _ in maml(attention="released").method.named_parameters():
        assert name.startswith("heads.") or any(fnmatchcase(name, pattern) for pattern in MAML_LAYERS.values())


def test_all_layers_drawn_anew_are_the_untrained_method(cases):
    trained = maml()
    fresh = Predictor(untrained(trained.method, 5), LIVER, WINDOW, precision="float32", run="fresh")
    found = randomisation(trained, cases[:1], {"all": "*"}, seeds=(5,)).query("layer == 'all'")
    expected = repeatability([trained, fresh], cases[:1])
    np.testing.assert_allclose(found["value"], expected["value"])


def test_drawing_weights_leaves_the_random_state_alone():
    method = maml().method
    before = torch.get_rng_state()
    one, same, other = (untrained(method, seed).state_dict()["classifier.weight"] for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    torch.manual_seed(3)
    assert not torch.equal(one, type(method)(**method.settings).state_dict()["classifier.weight"])


def test_without_cases_or_lesions_there_is_nothing_to_correlate():
    noise = np.random.default_rng(0).normal(size=(2, *WINDOW))
    images = {name: image(one) for name, one in zip(LIVER.modalities, noise, strict=True)}
    healthy = Case("healthy", images, image(np.zeros(WINDOW, bool)))
    for given in ([], [healthy]):
        assert tuple(randomisation(maml(), given)) == (*COLUMNS, "layer", "seed")
        assert repeatability([maml(), maml()], given).empty
        assert set(map_scores(maml(), given)["measure"]) <= {"completeness"}


def test_layers_that_do_not_exist_are_refused(cases):
    with pytest.raises(ValueError, match=r"classifier \(classifier\.\*\)"):
        randomisation(predictor(), [bright()[0]])
    with pytest.raises(ValueError, match="seed"):
        randomisation(maml(), cases, seeds=())


def test_the_same_method_twice_repeats_exactly(cases):
    found = repeatability([maml(), maml()], cases)
    np.testing.assert_allclose(found["value"], 1)
    assert set(found["count"]) == {1}
    assert set(found["run"]) == {"seed 0+seed 0"}


def test_repeatability_is_the_mean_over_pairs_near_the_lesion(cases):
    predictors = [maml(seed) for seed in range(3)]
    found = repeatability(predictors, cases[:1]).query("map == 'attention' and modality == 'venous'")
    maps = [one(cases[0]).attention["venous"] for one in predictors]
    lesion = np.asarray(cases[0].label.dataobj) > 0
    every, inside = np.stack(np.indices(lesion.shape), -1), np.argwhere(lesion)
    near = np.linalg.norm(every[..., None, :] - inside, axis=-1).min(-1) <= 10
    values = [stats.spearmanr(one[near], other[near]).statistic for one, other in itertools.combinations(maps, 2)]
    assert found["value"].item() == pytest.approx(np.mean(values))
    assert found["count"].item() == 3


def test_predictors_that_cannot_repeat_each_other_are_refused(cases):
    with pytest.raises(ValueError, match=r"\b1\b.*maml"):
        repeatability([maml()], cases)
    other = predictor()
    with pytest.raises(ValueError, match=rf"\b2\b.*{other.method.name}"):
        repeatability([maml(), other], cases)
    other = maml()
    other.task = LIVER.with_spacing((2, 2, 2))
    with pytest.raises(ValueError, match="other tasks"):
        repeatability([maml(), other], cases)


def test_rank_correlation_by_hand():
    """Ranks 1 2 3 4 against 1 3 2 4: 1 - 6 · 2 / (4 · 15) = 0.8; a map that never changes has none."""
    assert spearman(np.array([1, 2, 3, 4]), np.array([10, 30, 20, 40]))[0] == pytest.approx(0.8)
    assert spearman(np.array([1, 2, 3]), np.array([9, 4, 1]))[0] == pytest.approx(-1)
    assert np.isnan(spearman(np.ones(4), np.arange(4))).all()


def test_rows_about_several_runs_name_all_of_their_methods():
    class Other(Linear):
        name = "other"

    together = Predictor([one(BRIGHT.modalities, 2) for one in (Linear, Other)], BRIGHT, WINDOW, precision="float32")
    assert set(map_scores(together, [bright()[0]])["method"]) == {"linear+other"}
    assert set(deletion(together, [bright()[0]], steps=2, block=8)["method"]) == {"linear+other"}
