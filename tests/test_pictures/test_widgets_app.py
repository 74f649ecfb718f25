import base64
from contextlib import nullcontext
from dataclasses import replace
from html import unescape
from types import SimpleNamespace

import nbformat
import pytest
from typer.testing import CliRunner

from maml_toolkit import MAML, Predictor
from maml_toolkit.__main__ import app as command
from maml_toolkit.commands import launching
from maml_toolkit.data import phantoms
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.pictures.widgets.app import app

TASK = TASKS["liver_phases"]


@pytest.fixture(scope="module")
def predictor():
    method = MAML(TASK.modalities, TASK.classes, channels=(4, 6), subset_weight=1)
    return Predictor(method, TASK, window=(16, 16, 16))


def segment(predictor):
    return lambda case: predictor.subsets(case, attention=True, contributions=True)


def test_a_case_is_shown_at_once_and_another_when_it_is_chosen(predictor, tmp_path):
    cases = phantoms.liver_phases(2, size=16)
    page = app(cases, segment(predictor), tmp_path)
    assert page.prediction.case == cases[0].id
    page.choice.value = cases[1].id
    assert page.prediction.case == cases[1].id
    assert page.place.children == (page.explorer,)
    assert len(page.prediction.subsets) == 3
    assert "MB" in page.status.value
    (first,) = (page.explorer,)
    page.choice.value = cases[0].id
    assert first.comm is None               # its arrays are let go, here and in the browser


def test_what_nobody_foresaw_is_said_too(predictor, tmp_path):
    good, bad = phantoms.liver_phases(2, size=16)

    def fails(case):
        if case is bad:
            raise RuntimeError("out of memory")
        return segment(predictor)(case)

    page = app([good, bad], fails, tmp_path)
    with pytest.raises(RuntimeError):
        page.choice.value = bad.id
    assert "out of memory" in page.status.value
    assert page.save.disabled


def test_how_sure_the_answer_is_stands_above_it_where_that_was_asked_for(predictor, tmp_path):
    (case,) = phantoms.liver_phases(1, size=16)
    page = app([case], lambda case: predictor.subsets(case, uncertainty=True), tmp_path)
    assert page.prediction.sureness.lines()
    assert all(line in unescape(page.status.value) for line in page.prediction.sureness.lines())


def test_a_click_saves_the_prediction_and_a_folder_that_cannot_be_written_is_said(predictor, tmp_path):
    (case,) = phantoms.liver_phases(1, size=16)
    page = app([case], segment(predictor), tmp_path / "out")
    page.save.click()
    assert (tmp_path / "out" / case.id / f"{case.id}_seg.nii.gz").exists()
    assert all(name in page.status.value for name in TASK.modalities)       # whatever is on show
    for file in (tmp_path / "out" / case.id).iterdir():
        file.unlink()
    (tmp_path / "out" / case.id / f"{case.id}_seg.nii.gz").write_text("a ground truth")
    page.save.click()
    assert "Not saved" in page.status.value
    assert (tmp_path / "out" / case.id / f"{case.id}_seg.nii.gz").read_text() == "a ground truth"
    (tmp_path / "file").write_text("")
    page = app([case], segment(predictor), tmp_path / "file" / "out")
    page.save.click()
    assert "cannot be written" in page.status.value


def test_what_is_wrong_with_a_case_is_said_and_the_others_can_be_chosen(predictor, tmp_path):
    good, other = phantoms.liver_phases(2, size=16)
    bad = replace(other, images={"arterial": tmp_path / "gone.nii.gz"})
    page = app([bad, good], segment(predictor), tmp_path)
    assert "does not exist" in page.status.value
    assert page.save.disabled
    assert page.explorer is None
    page.choice.value = good.id
    assert page.explorer is not None
    assert not page.save.disabled


def test_where_no_script_runs_there_is_a_picture(predictor, tmp_path):
    page = app(phantoms.liver_phases(1, size=16), segment(predictor), tmp_path)
    bundle = page._repr_mimebundle_()
    data = bundle if isinstance(bundle, dict) else bundle[0]
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no cases"):
        app([], segment(predictor), tmp_path)


def test_the_page_is_served_on_this_machine_alone_behind_a_token(tmp_path, monkeypatch):
    asked = {}

    def child(module, words, env):
        asked["module"], asked["words"], asked["notebook"] = module, words, nbformat.read(words[0], 4)
        return nullcontext(SimpleNamespace(wait=lambda: 0))

    monkeypatch.setattr(launching, "child", child)
    words = ["explore", str(tmp_path / "run"), str(tmp_path / "data"), "--no-browser"]
    for missing in ("run", "data"):
        refused = CliRunner().invoke(command, words)
        assert refused.exit_code == 1
        assert str(tmp_path / missing) in refused.output
        assert not asked
        (tmp_path / missing).mkdir()
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 0, done.output
    assert asked["module"] == "voila"
    assert {"--Voila.ip=127.0.0.1", "--token", "--no-browser"} <= set(asked["words"])
    assert any(str(tmp_path / "run") in cell.source for cell in asked["notebook"].cells)
    TASKS["brats2021"].save(tmp_path / "scheme.json")
    monkeypatch.chdir(tmp_path)
    for given, passed in (("scheme.json", str(tmp_path / "scheme.json")), ("brats2023", "brats2023")):
        assert CliRunner().invoke(command, [*words, "--task", given]).exit_code == 0
        assert any(f'task = "{passed}"' in cell.source for cell in asked["notebook"].cells)
    asked.clear()
    unknown = CliRunner().invoke(command, [*words, "--task", "brats"])
    assert unknown.exit_code == 1
    assert "'brats'" in unknown.output
    assert not asked
    with pytest.raises(ValueError, match="no parameter"):
        launching.serve("explorer", {"runs": "x"})
