import base64
import io
import os
import re
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import image as images
from typer.testing import CliRunner

from maml_toolkit import MAML, Predictor, Trainer, evaluate
from maml_toolkit.__main__ import app
from maml_toolkit.data import phantoms
from maml_toolkit.data.audit import audit, audit_source
from maml_toolkit.data.cases import Case, find_cases, write_cases
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.evaluation.table import read_table
from maml_toolkit.pictures import report
from maml_toolkit.pictures.cards import card
from maml_toolkit.pictures.report import answers
from maml_toolkit.pictures.report.answers import contents
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.kept import Fitted
from maml_toolkit.prediction.runs import Run
from maml_toolkit.prediction.sureness import Expected
from maml_toolkit.system import tables

BRATS = TASKS["brats2021"]


@pytest.fixture
def folder(tmp_path):
    """Three cases, one of them with a truncated FLAIR and one without T2."""
    one, two, three = phantoms.brains(3, size=24)
    two = Case(two.id, {name: image for name, image in two.images.items() if name != "t2"}, two.label)
    write_cases([one, two, three], tmp_path / "set <u>& José", "folders", BRATS)
    bad = tmp_path / "set <u>& José" / three.id / f"{three.id}_flair.nii.gz"
    bad.write_bytes(bad.read_bytes()[:2000])
    return tmp_path / "set <u>& José"


def pictures(html):
    found = re.findall(r'<figure><img alt="([^"]*)" src="data:image/png;base64,([^"]*)"', html)
    return [(name, images.imread(io.BytesIO(base64.b64decode(data)))) for name, data in found]


def test_the_page_says_what_was_found_and_what_to_do_next(folder, tmp_path):
    found = audit_source(folder, BRATS)
    html = report.audit_page(found, tmp_path / "page.html", folder).read_text(encoding="utf-8")
    assert "1 problem in 1 case" in html
    assert "is truncated" in html
    assert "Copy or download the file again" in html
    assert "without t2" in html
    assert "Research use only" in html
    assert "Look at each" in html


def test_the_page_needs_no_other_file_shows_no_path_and_escapes_names(folder, tmp_path):
    html = report.audit_page(audit_source(folder, BRATS), tmp_path / "page.html", folder).read_text(encoding="utf-8")
    assert str(tmp_path) not in html
    assert "<u>" not in html
    assert "set &lt;u&gt;&amp; José" in html
    assert not re.search(r"https?:|<script|<link|src=\"(?!data:)", html)


def test_a_page_shows_no_folder_of_files_that_lie_elsewhere(folder, tmp_path):
    """Folders carry names of people."""
    elsewhere = tmp_path / "John Smith"
    elsewhere.mkdir()
    cut = next(folder.rglob("*-002_flair.nii.gz")).rename(elsewhere / "flair.nii.gz")
    case = Case("a", {"flair": cut, "t1": next(folder.rglob("*-001_t1.nii.gz"))})
    html = report.audit_page(audit([case], BRATS), tmp_path / "page.html", folder).read_text(encoding="utf-8")
    assert "flair.nii.gz" in html
    assert "Smith" not in html


def test_a_page_that_cannot_be_written_is_said_before_anything_is_read(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("maml_toolkit.data.audit.audit_source", lambda *_, **__: pytest.fail("was read"))
    (tmp_path / "file").write_text("")
    for page in (tmp_path, tmp_path / "file" / "page.html"):
        done = CliRunner().invoke(app, ["audit", str(folder), "--page", str(page)])
        assert done.exit_code == 1
        assert str(tmp_path) in done.output


def test_every_scan_has_a_picture_with_the_label_drawn_on_it(tmp_path):
    (case,) = phantoms.brains(1, size=(40, 30, 24))
    html = report.audit_page(audit([case], BRATS), tmp_path / "page.html").read_text(encoding="utf-8")
    found = pictures(html)
    assert [name.partition(", outlined")[0] for name, _ in found] == [f"{case.id}, {one}" for one in BRATS.modalities]
    for _, pixels in found:
        assert pixels.shape[:2] == (96, 128)                       # the proportions of the slice in millimetres
        coloured = np.ptp(pixels[..., :3], axis=-1) > 0.2
        assert 10 < coloured.sum() < 0.3 * coloured.size
        assert pixels[~coloured][:, :3].max() > 0.5


def test_a_label_is_outlined_by_the_values_of_its_own_data_set(tmp_path):
    """2 is the lesion there and the oedema of the task: what is drawn and named is the lesion."""
    label = np.zeros((12, 12, 12), np.uint8)
    label[3:9, 3:9, 3:9] = 2
    scan = np.random.default_rng(0).normal(size=label.shape).astype(np.float32)
    own, task = (Task(name, ["t1"], {"background": 0, "lesion": one, "oedema": 3 - one})
                 for name, one in (("own", 2), ("net", 1)))
    case = Case("A", {"t1": nib.Nifti1Image(scan, np.eye(4))}, nib.Nifti1Image(label, np.eye(4)), task=own)
    html = report.audit_page(audit([case], task, training=False), tmp_path / "page.html").read_text(encoding="utf-8")
    assert [name for name, _ in pictures(html)] == ["A, t1, outlined: lesion"]


def test_the_patients_right_is_on_the_left_and_the_front_at_the_top(tmp_path):
    for axes in ("RAS", "LPS", "PIR"):
        array = np.zeros((20, 22, 24), np.float32)
        array[15:18, 16:19, 8:16] = 100                            # right (large x), front (large y)
        image = nib.Nifti1Image(array, np.eye(4)).as_reoriented(
            nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes)))
        html = report.audit_page(audit([Case("A", {"t1": image})], BRATS, training=False), tmp_path / f"{axes}.html")
        ((_, pixels),) = pictures(html.read_text(encoding="utf-8"))
        rows, columns = np.nonzero(pixels[..., 0] > 0.5)
        assert rows.mean() < 0.35 * pixels.shape[0]
        assert columns.mean() < 0.35 * pixels.shape[1]


def test_a_clean_set_is_said_to_be_clean_and_unread_files_leave_a_note(tmp_path):
    html = report.audit_page(audit(phantoms.brains(2, size=16), BRATS, training=False), tmp_path / "page.html")
    assert "No problem was found" in html.read_text(encoding="utf-8")
    assert "What must be mended" not in html.read_text(encoding="utf-8")
    (tmp_path / "x.nii.gz").write_bytes(b"")
    html = report.audit_page(audit([Case("A", {"t1": tmp_path / "x.nii.gz"})], BRATS), tmp_path / "page.html")
    assert "no file could be read" in html.read_text(encoding="utf-8")


def test_the_command_says_how_many_by_its_exit_status_and_mends(folder, tmp_path):
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["audit", str(folder), "--task", "brats2021", "--page", str(page)])
    assert done.exit_code == 1
    assert "is truncated" in done.output
    assert "3 cases, 1 problem," in done.output
    assert page.exists()
    assert CliRunner().invoke(app, ["audit", str(folder), "--page", str(page)]).exit_code == 1
    next(folder.rglob("*-002_flair.nii.gz")).unlink()
    assert CliRunner().invoke(app, ["audit", str(folder), "--task", "brats2021", "--page", str(page)]).exit_code == 0
    wrong = CliRunner().invoke(app, ["audit", str(folder), "--task", "brats1999", "--page", str(page)])
    assert wrong.exit_code == 1
    assert "brats1999" in wrong.output
    frames = np.random.default_rng(0).normal(size=(6, 7, 8, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(frames, np.eye(4)), tmp_path / "4d.nii.gz")
    done = CliRunner().invoke(app, ["mend", str(tmp_path / "4d.nii.gz"), str(tmp_path / "new.nii.gz"), "--frame", "2"])
    assert done.exit_code == 0
    np.testing.assert_allclose(nib.load(tmp_path / "new.nii.gz").get_fdata(), frames[..., 2])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two epochs, measured from every subset of two scans on three cases, which are in files."""
    folder = tmp_path_factory.mktemp("run")
    task, cases = TASKS["liver_phases"], phantoms.liver_phases(5, size=16)
    method = MAML(task.modalities, task.classes, channels=(4, 6))
    trainer = Trainer(method, folder / "first", task, patch_size=(16, 16, 16), epochs=2, steps_per_epoch=2,
                      validate_every=1)
    trainer.fit(cases[:1], cases[1:2])
    test = write_cases(cases[2:], folder / "data", "folders", task)
    predictor = Predictor.load(folder / "first")
    table = evaluate(predictor, cases[2:], subsets="all")
    table.to_csv(folder / "first" / "metrics.csv", index=False)
    return folder / "first", test


def test_cases_that_a_run_has_seen_are_told_beside_its_scores(run):
    """The first of five cases trained and the second validated."""
    names = [case.id for case in phantoms.liver_phases(5, size=16)]
    assert Run(run[0]).about_seen(names[2:]) == ""
    assert Run(run[0]).about_seen([*names, *names]).startswith("2 of the 5 cases")
    fitted = run[0].with_name("fitted")
    shutil.copytree(run[0], fitted)
    replace(Fitted.load(checkpoints.best(fitted / "checkpoints")), cases=(names[2],)).save(
        checkpoints.newest(fitted / "checkpoints"))
    assert Run(fitted).about_seen(names[2:]).startswith("1 of the 3 cases")
    assert "too good for new cases" not in report.run_page(run[0]).read_text(encoding="utf-8")
    copy = run[0].with_name("seen")
    shutil.copytree(run[0], copy)
    table = read_table(copy / "metrics.csv")
    tables.write(copy / "metrics.csv", table.assign(case=table["case"].replace(names[2], names[0])))
    assert "1 of the 3 cases measured" in report.run_page(copy).read_text(encoding="utf-8")


def test_the_page_of_a_run_holds_curves_scores_subsets_and_settings(run):
    html = report.run_page(run[0]).read_text(encoding="utf-8")
    for said in ("Training", "95 % interval", "Any subset of the scans", "What each scan is worth", "How it was made",
                 "learning_rate", "arterial+venous", "Research use only", "torch"):
        assert said in html, said
    assert not re.search(r"https?:|<script|<link", html.replace("http://www.w3.org", ""))
    assert "Worst cases" not in html


def test_the_page_of_a_run_shows_the_worst_and_the_best_cases_where_their_files_are(run, tmp_path):
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", str(run[0]), "--data", str(run[1]), "--page", str(page), "--shown", "1"])
    assert done.exit_code == 0, done.output
    html = page.read_text(encoding="utf-8")
    assert "Worst cases" in html
    assert "Best cases" in html
    assert "SHA-256" in html
    drawings = re.findall(r"<figcaption>([^<]*)<", html)
    assert sum("truth and prediction" in one for one in drawings) == 2
    assert sum("add up to the log-odds" in one for one in drawings) == 2


def test_the_page_counts_the_cases_and_takes_the_policy_that_it_speaks_of(run, tmp_path):
    """Of three cases one lacks a scan; by "heads" the first is worst, by the fused answer that is drawn the second."""
    copy = Run(shutil.copytree(run[0], tmp_path / "run"))
    table = read_table(copy.metrics)
    first, second, third = ids = sorted(set(table["case"]))
    dice = table[(table["metric"] == "dice") & ((table["case"] != third) | (table["present"] != "arterial+venous"))]
    fused = dice.assign(value=dice["case"].map({first: 0.8, second: 0.6, third: 0.1}))
    heads = dice.assign(policy="heads", value=dice["case"].map({first: 0.0, second: 0.6, third: 0.1}))
    aside = fused.assign(region="tumour ≥ 9 mm³", value=1.0)
    tables.write(copy.metrics, pd.concat([fused, heads, aside]))
    cases = [case for case in phantoms.liver_phases(5, size=16) if case.id in ids]
    html = report.run_page(copy, cases, Predictor.load(copy.folder), shown=1).read_text(encoding="utf-8")
    assert re.search(r"Mean Dice from [^.]*<b>70\.0 %</b>", html)
    assert f"over 2 cases ({first}, {second})" in html
    assert re.findall(r"<h3>([^<]+): mean Dice ([\d.]+) %", html) == [(second, "60.0"), (first, "80.0")]
    assert html.count("answered by fused") == 2
    worth = html.partition("What each scan is worth")[2].partition("</figcaption>")[0]
    assert "2 cases" in worth
    assert "3 cases" not in worth


def test_the_answer_that_is_drawn_is_the_one_whose_dice_stands_above_it(run, tmp_path, monkeypatch):
    copy, shown = Run(shutil.copytree(run[0], tmp_path / "run")), []
    table = read_table(copy.metrics)
    tables.write(copy.metrics, table.assign(policy="heads"))
    monkeypatch.setattr(answers, "case_pictures", lambda case, task, answer: shown.append(answer.policy) or [])
    cases = [case for case in phantoms.liver_phases(5, size=16) if case.id in set(table["case"])]
    html = report.run_page(copy, cases, Predictor.load(copy.folder), shown=1).read_text(encoding="utf-8")
    assert shown == ["heads", "heads"]
    assert html.count("answered by heads") == 2


@pytest.mark.parametrize("shown", [1, 2, 3, 5])
def test_no_case_is_among_the_worst_and_the_best(run, tmp_path, shown):
    known = set(read_table(run[0] / "metrics.csv")["case"])
    cases = [case for case in phantoms.liver_phases(5, size=16) if case.id in known]
    page = report.run_page(run[0], cases, Predictor.load(run[0], device="cpu"), shown=shown, path=tmp_path / "p.html")
    found = re.findall(r"<h3>([^<]+): mean Dice", page.read_text(encoding="utf-8"))
    assert len(found) == len(set(found)) == min(2 * shown, len(cases))


def test_the_page_says_where_the_table_was_measured_otherwise_than_it_draws(run, tmp_path):
    copy = Run(shutil.copytree(run[0], tmp_path / "run"))
    table = read_table(copy.metrics)
    cases = [case for case in phantoms.liver_phases(5, size=16) if case.id in set(table["case"])]
    predictor = Predictor.load(copy.folder, device="cpu")
    assert "measured otherwise" not in report.run_page(copy, cases, predictor).read_text(encoding="utf-8")
    true = float(table.loc[table["metric"] == "dice", "value"].iloc[0])
    tables.write(copy.metrics, table.assign(value=table["value"].where(table["metric"] != "dice", true + 0.02)))
    assert "measured otherwise" in report.run_page(copy, cases, predictor).read_text(encoding="utf-8")


def test_the_page_says_where_a_run_went_on_since_it_was_measured(run, tmp_path):
    copy = Run(shutil.copytree(run[0], tmp_path / "run"))
    columns = ["measure", "map", "modality", "value", "low", "high", "chance", "cases"]
    tables.write(copy.folder / "maps.csv", [], columns)
    before = report.run_page(copy).read_text(encoding="utf-8")
    os.utime(checkpoints.best(copy.checkpoints) / checkpoints.METHOD, (2e9, 2e9))
    assert "earlier weights" not in before
    assert report.run_page(copy).read_text(encoding="utf-8").count("earlier weights") == 2       # scores and maps
    assert "earlier weights" in card(copy)


@pytest.mark.parametrize("ids", [("001", "002", "10"), ("1e5", "NA", "null"), ("-", "TRUE", "007.0")])
def test_cases_whose_ids_look_like_something_else_are_shown_too(run, tmp_path, ids):
    cases = [replace(case, id=id) for case, id in zip(phantoms.liver_phases(5, size=16)[2:], ids, strict=True)]
    table = read_table(run[0] / "metrics.csv")
    names = dict(zip(sorted(set(table["case"])), ids, strict=True))
    copy = Run(shutil.copytree(run[0], tmp_path / "run"))
    table = table.assign(case=table["case"].map(names))
    dice = table["case"].map(dict(zip(ids, (0.5, 0.1, 0.9), strict=True)))
    tables.write(copy.metrics, table.assign(value=table["value"].where(table["metric"] != "dice", dice)))
    html = report.run_page(copy, cases, Predictor.load(copy.folder), shown=1).read_text(encoding="utf-8")
    assert re.findall(r"<h3>([^<]+): mean Dice", html) == [ids[1], ids[2]]
    assert f"test cases</th><td>3: {', '.join(ids)}" in html.replace("\n", "")


def test_the_page_of_a_case_says_how_sure_its_answer_is(tmp_path):
    (case,) = phantoms.brains(1, size=16)
    torch.manual_seed(0)
    predictor = Predictor(MAML(BRATS.modalities, 4, channels=(4, 6)), BRATS, (16, 16, 16), device="cpu")
    plain = report.case_page(case, predictor(case), tmp_path / "plain.html")
    assert "How sure" not in plain.read_text(encoding="utf-8")
    predictor.fitted = Fitted(expected_dice={"fused": {4: {"WT": Expected(0.82, 0, 0.043, 9)}}})
    prediction = predictor(case, uncertainty=True)
    html = report.case_page(case, prediction, tmp_path / "page.html").read_text(encoding="utf-8")
    found = re.findall(r"<tr>(.*?)</tr>", html.partition("How sure")[2])
    rows = [re.findall(r">([^<]+)</t[hd]>", row) for row in found]
    assert ["WT", "82 %", "4 in 9 cases"] in [row[:3] for row in rows]
    assert [row[1:3] for row in rows if row[0] in ("TC", "ET")] == [["–", "–"]] * 2
    for change in prediction.sureness.worst:
        assert f"without {change.without}" in html
    assert html.count("<figure") == plain.read_text(encoding="utf-8").count("<figure") + 1


def test_a_run_that_was_not_measured_says_so_and_a_folder_without_a_run_is_refused(run, tmp_path):
    (tmp_path / "settings.json").write_bytes((run[0] / "settings.json").read_bytes())
    assert "Nothing was measured yet" in report.run_page(tmp_path).read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="no run"):
        report.run_page(tmp_path / "nothing")


def test_the_checksum_changes_with_a_byte_of_a_file(tmp_path):
    cases = phantoms.brains(2, size=16)
    first = contents(cases, BRATS)
    assert first == contents(cases[::-1], BRATS)
    write_cases(cases, tmp_path / "a", "folders", BRATS)
    found = find_cases(tmp_path / "a", BRATS)
    before = contents(found, BRATS)
    file = found[0].images["t1"]
    file.write_bytes(file.read_bytes() + b"x")
    assert contents(found, BRATS) != before
