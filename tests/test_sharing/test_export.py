"""An ONNX file computes what torch computes, from the modalities that are there, and says how it is used."""

import json
import logging
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from maml_toolkit import MAML, Predictor
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.methods import METHODS, build
from maml_toolkit.prediction.kept import Fitted
from maml_toolkit.sharing import export
from maml_toolkit.sharing.export import export_onnx
from maml_toolkit.system.errors import MissingModalityError

BRATS = TASKS["brats2021"].with_spacing((1, 1, 2))
CHANNELS = (4, 6)
WINDOW = (8, 8, 12)


def predictor(name="maml", modalities=BRATS.modalities, policy="fused", fitted=None, **settings):
    torch.manual_seed(0)
    method = build(name, modalities=modalities, classes=BRATS.classes, channels=CHANNELS, **settings)
    return Predictor(method, BRATS, WINDOW, device="cpu", precision="float32", policy=policy, fitted=fitted)


def scans(names, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(1, 1, *WINDOW, generator=generator) for name in names}


def run(path, images):
    session = onnxruntime.InferenceSession(str(path))
    assert [one.name for one in session.get_inputs()] == list(images)
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, {name: one.numpy() for name, one in images.items()}), strict=True))


def facts(path):
    found = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    return {key: json.loads(text) for key, text in found.items()}


def largest_difference(found, expected):
    """As a share of the largest value expected, or of 1."""
    expected = expected.numpy()
    return np.abs(found - expected).max() / max(1, np.abs(expected).max())


def some_subsets(method):
    """The largest set that it answers from, and one of each smaller size."""
    by_size = {len(one): one for one in reversed(method.answerable(set(method.modalities)))}
    return [method.present(one) for one in by_size.values()]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A Predictor, the file of its network for T1 and FLAIR with all maps, and the differences that were found."""
    asked, path = predictor(), tmp_path_factory.mktemp("onnx") / "one.onnx"
    return asked, path, export_onnx(asked, path, {"flair", "t1"}, attention=True, contributions=True)


@pytest.mark.parametrize(("name", "count"), [
    *((name, 3) for name in ("maml", "early_fusion", "hemis")),
    *(pytest.param(name, 4, marks=pytest.mark.slow) for name in METHODS)])
def test_every_method_answers_as_in_torch_from_subsets_of_every_size(name, count, tmp_path):
    asked = predictor(name, BRATS.modalities[:count])
    for present in some_subsets(asked.method):
        found = export_onnx(asked, tmp_path / "one.onnx", present)
        images = scans(present)
        (logits,) = run(tmp_path / "one.onnx", images).values()
        with torch.inference_mode():
            expected = asked.method.eval()(images).logits
        assert largest_difference(logits, expected) < export.AGREEMENT
        assert set(found) == {"logits"}
        assert 0 <= found["logits"] < 1e-4


def test_attention_and_contributions_are_those_of_torch_and_add_up_to_the_logits(exported):
    asked, path, found = exported
    images = scans(("t1", "flair"))
    answer = run(path, images)
    assert list(answer) == list(found) == [
        "logits", "attention_t1", "attention_flair", "contribution_t1", "contribution_flair"]
    with torch.inference_mode():
        expected = asked.method.eval()(images)
        contributions = expected.contributions
    for one in images:
        assert answer[f"attention_{one}"].shape == (1, *WINDOW)
        assert largest_difference(answer[f"attention_{one}"], expected.attention[one].mean(1)) < export.AGREEMENT
        assert largest_difference(answer[f"contribution_{one}"], contributions[one]) < export.AGREEMENT
    bias = np.array(facts(path)["bias"], np.float32).reshape(1, -1, 1, 1, 1)
    total = answer["contribution_t1"] + answer["contribution_flair"] + bias
    assert np.abs(total - answer["logits"]).max() < 1e-5 * max(1, np.abs(total).max())


def test_the_weights_of_absent_modalities_are_not_in_the_file(tmp_path):
    asked = predictor("late_fusion", BRATS.modalities[:2])
    for path, present in (("two", ["t1", "t1ce"]), ("one", "t1ce")):
        export_onnx(asked, tmp_path / path, present)
    two, one = (sum(np.prod(tensor.dims) for tensor in onnx.load(tmp_path / path).graph.initializer)
                 for path in ("two", "one"))
    assert one < 0.51 * two


def test_the_policy_of_heads_is_exported_too(tmp_path):
    asked = predictor("late_fusion", ("t1", "flair"), policy="heads")
    asked.mirror, asked.drop_small = (1,), {"ET": 5}        # left to the program
    export_onnx(asked, tmp_path / "one.onnx")
    images = scans(("t1", "flair"))
    with torch.inference_mode():
        expected = asked.method.eval()(images).by_heads().logits
    assert largest_difference(run(tmp_path / "one.onnx", images)["logits"], expected) < export.AGREEMENT
    said = facts(tmp_path / "one.onnx")
    assert (said["policy"], said["mirror"], said["smallest_mm3"]) == ("heads", [1], {"ET": 5})


def test_a_mixture_is_exported_with_the_share_of_its_number_of_scans(tmp_path):
    asked = predictor("maml", ("t1", "flair"), policy="by-size", fitted=Fitted({1: 0, 2: 0.3}))
    images = scans(("t1", "flair"))
    with torch.inference_mode():
        answer = asked.method.eval()(images)
        contribution = answer.contributions["t1"]
    export_onnx(asked, tmp_path / "one.onnx", contributions=True)
    found = run(tmp_path / "one.onnx", images)
    expected = 0.7 * answer.logits.softmax(1) + 0.3 * answer.by_heads().logits.softmax(1)
    np.testing.assert_allclose(torch.from_numpy(found["logits"]).softmax(1), expected, atol=1e-4)
    assert largest_difference(found["contribution_t1"], contribution) < export.AGREEMENT
    assert (facts(tmp_path / "one.onnx")["policy"], facts(tmp_path / "one.onnx")["share"]) == ("by-size", 0.3)
    together = Predictor([asked.method] * 2, BRATS, asked.window)
    with pytest.raises(ValueError, match="2 runs"):
        export_onnx(together, tmp_path / "two.onnx")


def test_regions_are_exported_with_the_way_in_which_they_are_painted(tmp_path):
    task, names = replace(BRATS, train_on="regions"), ("t1", "flair")
    torch.manual_seed(0)
    method = build("maml", modalities=names, **task.outputs, channels=CHANNELS)
    asked = Predictor(method, task, WINDOW, device="cpu", policy="by-size", fitted=Fitted({2: 0.3}))
    export_onnx(asked, tmp_path / "one.onnx")
    images = scans(names)
    logits, said = run(tmp_path / "one.onnx", images)["logits"], facts(tmp_path / "one.onnx")
    with torch.inference_mode():
        answer = method.eval()(images)
        expected = 0.7 * answer.logits.sigmoid() + 0.3 * answer.by_heads().logits.sigmoid()
    np.testing.assert_allclose(torch.from_numpy(logits).sigmoid(), expected, atol=1e-4)
    assert (said["train_on"], said["channels"]) == ("regions", ["WT", "TC", "ET"])
    classes = np.zeros(said["window"], int)             # as the module says it
    for inside, painted in zip(logits[0] > 0, said["painted"], strict=True):
        classes[inside] = painted
    np.testing.assert_array_equal(classes, task.answers.classes(logits[0]))


def test_the_file_says_how_it_is_used(exported):
    _, path, found = exported
    said = facts(path)
    assert said["modalities"] == ["t1", "flair"]
    assert said["classes"] == ["background", "necrosis", "oedema", "enhancing"]
    assert said["labels"]["enhancing"] == [4]
    assert said["regions"]["TC"] == ["necrosis", "enhancing"]
    assert (said["spacing_mm"], said["window"], said["overlap"]) == ([1, 1, 2], list(WINDOW), 0.5)
    assert said["orientation"] == "RAS+"
    assert set(said["normalisation"]) == set(said["intensities"]) == {"t1", "flair"}
    assert "0.5 to 99.5 %" in said["normalisation"]["t1"]
    assert said["difference"] == found
    model = onnx.load(path)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", said["opset"])] == [("", export.OPSET)]


def test_the_file_names_no_folder_of_the_machine_that_wrote_it(exported):
    content = exported[1].read_bytes()
    assert b".py" not in content
    assert b"stack_trace" not in content


def test_an_export_is_silent(tmp_path, caplog, capfd):
    export_onnx(predictor(), tmp_path / "one.onnx", {"flair", "t1"})      # a part of the weights: more to say
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING] == []
    assert (*capfd.readouterr(),) == ("", "")


def test_the_method_stays_where_and_as_it_was(tmp_path):
    asked = predictor("late_fusion", ("t1",))
    asked.method.train()
    before = {name: one.clone() for name, one in asked.method.state_dict().items()}
    export_onnx(asked, tmp_path / "one.onnx")
    assert asked.method.training
    assert all(torch.equal(one, before[name]) for name, one in asked.method.state_dict().items())


def test_modalities_that_a_method_does_not_answer_from_are_refused_by_name(tmp_path):
    with pytest.raises(MissingModalityError, match="early_fusion"):
        export_onnx(predictor("early_fusion"), tmp_path / "one.onnx", ["t1"])
    with pytest.raises(MissingModalityError, match="pet"):
        export_onnx(predictor(), tmp_path / "one.onnx", "pet")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "present", "kind"), [
    ("late_fusion", None, "attention"), ("hemis", None, "contributions"), ("maml", "t1", "attention")])
def test_maps_that_a_method_does_not_have_are_refused(name, present, kind, tmp_path):
    with pytest.raises(ValueError, match=f"{name} has no {kind.rstrip('s')}"):
        export_onnx(predictor(name), tmp_path / "one.onnx", present, **{kind: True})


class Branching(MAML):
    name = "branching"

    def forward(self, images):
        answer = super().forward(images)
        return answer if answer.logits.sum() > 0 else super().forward(dict(list(images.items())[:1]))


def test_a_method_that_cannot_be_exported_is_named_and_the_reason_given(tmp_path):
    method = Branching(modalities=("t1", "t2"), classes=BRATS.classes, channels=CHANNELS)
    asked = Predictor(method, BRATS, WINDOW, device="cpu", precision="float32")
    with pytest.raises(ValueError, match=r"(?s)\bbranching\b.+ branch\b"):
        export_onnx(asked, tmp_path / "one.onnx")
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_where_onnxruntime_disagrees(tmp_path, monkeypatch):
    converted = export._converted

    def wrong(*given):
        model = converted(*given)
        head = next(one for one in model.graph.initializer if list(one.dims) == [BRATS.classes, CHANNELS[0], 1, 1, 1])
        head.raw_data = (1.001 * np.frombuffer(head.raw_data, np.float32)).tobytes()
        return model

    monkeypatch.setattr(export, "_converted", wrong)
    with pytest.raises(ArithmeticError, match="onnxruntime"):
        export_onnx(predictor("late_fusion"), tmp_path / "one.onnx", "t1")
    assert not list(tmp_path.iterdir())


def test_a_network_that_no_file_can_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "LARGEST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"\b2 GB"):
        export_onnx(predictor("late_fusion"), tmp_path / "one.onnx", "t1")


def test_without_the_extra_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install -e "\.\[onnx\]"'):
        export_onnx(predictor(), tmp_path / "one.onnx")
