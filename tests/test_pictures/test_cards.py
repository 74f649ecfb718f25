"""How objects show themselves: short in a shell, small and static in a notebook, whatever became of their files."""

import base64
import dataclasses
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from browser import grid_for, predicted
from PIL import Image
from tiny_training import environment, trainer

from maml_toolkit.data import phantoms
from maml_toolkit.data.case import Case, Cases
from maml_toolkit.data.cases import find_cases, write_cases
from maml_toolkit.data.splits import holdout
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.evaluation import compare, evaluate, subset_table, summary
from maml_toolkit.evaluation.table import read_table
from maml_toolkit.methods import METHODS, build
from maml_toolkit.pictures.cards import card
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.prediction.runs import Run
from maml_toolkit.system.showing import Facts, Shown, in_lines

BRAIN = TASKS["brats2021"]
VOID = {"img", "br"}


class Page(HTMLParser):
    """Reads a card as a browser would, and remembers its words and pictures; a tag that is not closed is an error."""

    def __init__(self, html):
        super().__init__()
        self.open, self.words, self.pictures, self.tags = [], [], [], set()
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "img":
            data = dict(attributes)["src"].removeprefix("data:image/png;base64,")
            self.pictures.append((dict(attributes)["alt"], Image.open(io.BytesIO(base64.b64decode(data)))))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def picture(self, name):
        return np.asarray(next(one for alt, one in self.pictures if alt == name).convert("RGB")).astype(int)


def shown(thing):
    """The card of an object, after what holds of all of them was checked."""
    lines, html = repr(thing), thing._repr_html_()
    assert len(lines) < 300
    assert lines.count("\n") <= 2
    assert len(html.encode()) < 60_000
    assert "cannot be drawn" not in html
    assert not re.search(r"<script|<style|\son\w+=|http", html)
    return Page(html)


def is_hatched(pixels):
    """Two greys in stripes at 45 degrees: every diagonal has one colour."""
    grey = pixels[..., 0]
    greys = np.unique(grey)
    return len(greys) == 2 and (pixels == pixels[..., :1]).all() and (grey[1:, :-1] == grey[:-1, 1:]).all()


@pytest.fixture(scope="module")
def brain():
    return phantoms.brains(1, 32)[0]


def without(case, *names):
    return dataclasses.replace(case, images={name: one for name, one in case.images.items() if name not in names})


def test_a_case_shows_every_scan_its_grid_and_what_is_missing_hatched(brain):
    page = shown(without(brain, "t2", "t1"))
    assert [alt for alt, _ in page.pictures if alt != "colour"] == list(BRAIN.modalities)
    assert [is_hatched(page.picture(name)) for name in BRAIN.modalities] == [True, False, True, False]
    assert "t2 not acquired" in page.text
    assert "32 x 32 x 32 1 x 1 x 1 mm" in page.text


def test_the_volumes_of_a_case_are_those_of_its_label(brain):
    label = np.asarray(brain.label.dataobj)
    halved = nib.Nifti1Image(label, np.diag([0.5, 2, 3, 1]))
    images = {name: nib.Nifti1Image(np.asarray(one.dataobj), halved.affine) for name, one in brain.images.items()}
    page = shown(dataclasses.replace(brain, images=images, label=halved))
    for name, values in {"oedema": [2], "WT": [1, 2, 4], "TC": [1, 4]}.items():
        ml = np.isin(label, values).sum() * 3 / 1000
        assert re.search(rf"{name}( = [\w +]*)? {ml:.2f} ml", page.text), name
    assert "0.5 x 2 x 3 mm" in page.text


def test_the_outlines_of_a_case_have_the_colours_of_its_classes(brain):
    page = shown(brain)
    swatches = [np.asarray(one.convert("RGB"))[0, 0].astype(int) for alt, one in page.pictures if alt == "colour"]
    assert len(swatches) == 3
    label = np.asarray(brain.label.dataobj)
    section = label[:, :, (label > 0).sum((0, 1)).argmax()]
    drawn = page.picture("flair").reshape(-1, 3)
    for value, colour in zip((1, 2, 4), swatches, strict=True):
        assert ((drawn == colour).all(1).any()) == (section == value).any(), value


def test_a_case_whose_files_are_damaged_or_gone_says_so_in_red(tmp_path, brain):
    write_cases([brain], tmp_path / "cases", "folders", BRAIN)
    (case,) = cases = find_cases(tmp_path / "cases", BRAIN)
    case.images["t2"].unlink()
    case.images["t1"].write_bytes(case.images["t1"].read_bytes()[:3000])
    page = shown(case)
    assert [is_hatched(page.picture(name)) for name in BRAIN.modalities] == [True, False, True, False]
    assert page.text.count("cannot be read") == 2
    assert "#e5383b" in case._repr_html_()
    assert "does not exist" in page.text
    assert str(tmp_path) not in page.text            # folders carry names of people
    assert "gone" in shown(cases).text
    case.label.unlink()
    assert "label cannot be read" in shown(case).text


def test_without_a_task_a_label_has_values_and_nothing_is_missing(brain):
    case = Case("mine", without(brain, "t1").images, brain.label)
    page = shown(case)
    assert set(case.images) == {alt for alt, _ in page.pictures if alt != "colour"}
    for value in (1, 2, 4):
        ml = (np.asarray(brain.label.dataobj) == value).sum() / 1000
        assert (f"value {value} {ml:.2f} ml" in page.text) == (ml > 0)
    assert "no scan; no label" in repr(Case("empty"))
    shown(Case("empty"))


def test_a_case_too_large_for_a_glance_is_not_read(brain, monkeypatch):
    from maml_toolkit.pictures import cards

    monkeypatch.setattr(cards, "READ", 1000)
    page = shown(brain)
    assert page.pictures == []
    assert "32 x 32 x 32" in page.text


def test_many_scans_stay_small(brain):
    scans = {f"scan{number}": brain.images["t1"] for number in range(30)}
    noise = np.random.default_rng(0).normal(100, 30, (128, 128, 20)).astype(np.float32)
    page = shown(Case("many", dict.fromkeys(scans, nib.Nifti1Image(noise, np.eye(4)))))
    assert len(page.pictures) == 24
    assert "and 6 scans more" in page.text


def test_a_list_of_cases_is_a_matrix_of_scans_and_stays_a_list(brain):
    cases = Cases([brain, without(brain, "t1", "flair"), dataclasses.replace(brain, label=None)])
    page = shown(cases)
    assert "t1 (2) t1ce (3) t2 (3) flair (2) label (2)" in page.text
    assert page.text.count("○") == 3
    assert page.text.count("●") == 12
    assert cases == list(cases)
    assert isinstance(cases[:2], Cases)
    assert isinstance(cases + cases[:1], Cases)
    assert cases[0] is brain
    assert shown(Cases())
    assert json.dumps(Cases()) == "[]"


def test_many_cases_are_counted_by_what_they_have(brain):
    one, other = brain, without(brain, "t1")
    cases = Cases(dataclasses.replace(case, id=f"p{number}") for number in range(60) for case in [other if number < 7
                                                                                                 else one])
    page = shown(cases)
    assert "53: p7, p8 and 51 more" in page.text
    assert "7: p0, p1 and 5 more" in page.text


def test_functions_that_give_cases_give_them_with_their_task(tmp_path):
    made = phantoms.brains(3, 16, missing=0.5)
    assert isinstance(made, Cases)
    write_cases(made, tmp_path / "cases", "folders", BRAIN)
    found = find_cases(tmp_path / "cases", BRAIN)
    assert isinstance(found, Cases)
    assert [case.missing for case in found] == [case.missing for case in made]
    assert any(case.missing for case in found)
    ((training, test),) = holdout(found, 1 / 3)
    assert isinstance(training, Cases)
    assert isinstance(test, Cases)
    assert Case("p", found[0].images, task=BRAIN) == Case("p", found[0].images)      # the task is not compared


def test_a_task_shows_classes_values_and_regions_as_sets():
    page = shown(BRAIN)
    assert "enhancing 4 WT, TC, ET" in page.text
    assert "region TC {necrosis, enhancing}" in page.text
    assert len({np.asarray(one.convert("RGB"))[0, 0].tobytes() for _, one in page.pictures}) == 4
    sided = Task("kidneys", ["ct"], {"background": 0, "left kidney": [1, 3], "right kidney": 2}, intensities="ct",
                 ignore=255, spacing_mm=(1, 1, 2))
    text = shown(sided).text
    assert "left kidney 1, 3" in text
    assert "the value 255" in text
    assert "1 x 1 x 2 mm" in text
    many = Task("organs", ["ct"], {"background": 0, **{f"organ number {one}": one for one in range(1, 100)}})
    shown(many)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_shows_its_parts_and_not_its_modules(name):
    method = build(name, modalities=("t1", "t2"), classes=3, channels=(2, 4))
    count = sum(one.numel() for one in method.parameters())
    page = shown(method)
    assert f"parameters {count:,}, on cpu" in page.text
    assert f"{count:,}" in repr(method)
    assert "2-4" in repr(method)
    assert ("for each of t1, t2" in page.text) == any(len(getattr(part, "keys", list)()) for part in method.children())


@pytest.fixture(scope="module")
def answered():
    case = phantoms.brains(1, 40)[0]
    answer = predicted(case, BRAIN).subsets[frozenset(("t1ce", "flair"))]
    return dataclasses.replace(answer, method="maml", run="first", policy="fused", source=case)


def test_a_prediction_shows_the_lesion_its_volumes_and_the_share_of_each_scan(answered):
    page = shown(answered)
    assert "used t1ce, flair; without t1, t2" in page.text
    assert "used t1ce, flair; without t1, t2" in repr(answered)
    assert [is_hatched(page.picture(name)) for name in BRAIN.modalities] == [True, False, True, False]
    for region in BRAIN.regions:
        ml = BRAIN.region(answered.classes, region).sum() / 1000
        assert re.search(rf"{region} = [\w +]* {ml:.2f} ml", page.text), region


def test_the_shares_of_a_prediction_are_means_of_log_odds_inside_the_outline(answered):
    classes = answered.classes
    level = (classes > 0).sum((0, 1)).argmax()
    section = classes[:, :, level]
    number = int(np.bincount(section[section > 0]).argmax())
    text = shown(answered).text
    for name, own in answered.contributions.items():
        share = (own[number] - own[0])[:, :, level][section == number].mean()
        assert f"{share:+.2f} for {BRAIN.class_names[number]}" in text, name
    assert f"{BRAIN.class_names[number]} more likely than background" in text


def test_a_prediction_of_regions_shows_the_share_of_each_scan_in_one(brain):
    task = dataclasses.replace(BRAIN, train_on="regions")
    answer = dataclasses.replace(predicted(brain, task, subsets=False), source=brain)
    page, section = shown(answer), answer.classes[:, :, (answer.classes > 0).sum((0, 1)).argmax()]
    region = task.answers.named(int(np.bincount(section[section > 0]).argmax()))
    assert page.text.count(f" for {region}") == 4
    assert f"{region} more likely than everything else" in page.text
    assert "trained on regions" in shown(task).text


def test_a_prediction_that_was_saved_looks_the_same_without_its_scans(answered, tmp_path):
    loaded = Prediction.load(answered.save(tmp_path / "saved"))
    page, before = shown(loaded), shown(answered)
    assert re.findall(r"[\d.]+ ml|[+-][\d.]+ for", page.text) == re.findall(r"[\d.]+ ml|[+-][\d.]+ for", before.text)
    assert "found, on t1ce" in before.text
    assert "found, on" not in page.text
    for file in (tmp_path / "saved").glob("*contribution*"):
        file.unlink()
    page = shown(loaded)
    assert "#e5383b" in loaded._repr_html_()
    assert "ml" in page.text


def test_a_prediction_of_nothing_and_one_without_maps_show_their_zeros(brain, tmp_path):
    label = nib.Nifti1Image(np.zeros((32, 32, 32), np.uint8), np.eye(4))
    label.to_filename(tmp_path / "b.nii.gz")
    page = shown(Prediction.of_label_map(tmp_path / "b.nii.gz", "b", BRAIN, ["t1"], "other"))
    assert page.text.count("0.00 ml") == 6
    grid = grid_for(brain)
    maps = {"logits": np.zeros((4, *grid.box_shape), np.float32)}
    gone = dataclasses.replace(brain, images={"t1": "/nowhere/t1.nii.gz"})
    page = shown(Prediction("b", BRAIN, ("t1",), grid, maps, source=gone))
    assert "0.00 ml" in page.text
    assert "does not exist" in page.text


def test_a_predictor_says_how_it_answers(tmp_path):
    method = build("maml", modalities=BRAIN.modalities, classes=4, channels=(2, 4))
    predictor = Predictor(method, BRAIN, (8, 16, 8), device="cpu", precision="float32", policy="heads", mirror=[1],
                          drop_small={"ET": 50}, saved=tmp_path / "none", run="first")
    text = shown(predictor).text
    for fact in ("8x16x8", "heads", "posterior-anterior", "ET below 50 mm³", "cpu, float32", "run first",
                 "is not there"):
        assert fact in text, fact


def test_a_run_and_its_trainer_say_where_they_stand(tmp_path):
    one = trainer(tmp_path / "run", epochs=2, steps_per_epoch=1, device="cpu", validate_every=2)
    assert "no such folder" in shown(one.run).text
    assert not (tmp_path / "run").exists()
    page = shown(one)
    assert "learning_rate 0.01" in page.text
    bold = re.findall(r"<b>([^<]*)</b></td></tr>", one._repr_html_())
    assert set(bold) == {"16x16x16", "2", "1", "0.01"}
    assert "batch_size 2" in page.text              # as by default, so not in bold
    cases = phantoms.liver_phases(3, 16)
    one.fit(cases[:2], cases[2:])
    history = one.history()
    for thing in (one, one.run):
        page = shown(thing)
        assert "2 of 2 epochs" in page.text
        best = history.filter(like="validation/dice/").mean(axis=1).max()
        assert f"Dice {best:.3f}" in page.text
        ((_, curve),) = page.pictures
        assert curve.size[0] > 600
    (tmp_path / "run" / "history.csv").write_text("epoch,step\n1,nonsense\n")
    (tmp_path / "run" / "metrics.csv").write_text("a,b\n1,2\n")
    assert "nonsense" in shown(one.run).text
    (tmp_path / "run" / "settings.json").write_text("{")
    assert "damaged" in repr(one.run)
    shown(one.run)
    shown(one)


@pytest.fixture(scope="module")
def measured():
    method = build("maml", modalities=BRAIN.modalities, classes=4, channels=(2, 4))
    cases = phantoms.brains(3, 16)
    return evaluate(Predictor(method, BRAIN, (16, 16, 16), device="cpu"), cases, "each", metrics=["dice", "assd"])


def test_a_model_that_comes_with_the_toolkit_is_no_missing_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("maml_toolkit.prediction.runs.MODELS", tmp_path)
    Run(tmp_path / "brain").folder.mkdir()
    Run(tmp_path / "brain").write_settings({"method": {"method": "maml", "modalities": ["t1", "t2"]}})
    page = shown(Run("brain"))
    assert "comes with the toolkit" in page.text
    assert "maml of t1, t2" in page.text


def test_tables_show_what_they_say_and_stay_tables(measured, tmp_path):
    means = summary(measured, intervals=True)
    others = compare(measured, "t1", column="present", by=("region",))
    for table in (measured, means, others, subset_table(measured, BRAIN)):
        shown(table)
    dice = measured[(measured["metric"] == "dice") & (measured["present"] == "t1") & (measured["region"] == "WT")]
    assert f"{100 * dice['value'].mean():.1f} ±" in shown(measured).text
    assert f"{others['difference'].iloc[0]:.4g}" in shown(others).text
    assert type(measured[measured["metric"] == "dice"]) is pd.DataFrame
    assert type(pd.concat([measured, measured])) is pd.DataFrame
    assert str(means) == str(pd.DataFrame(means))
    measured.to_csv(tmp_path / "metrics.csv", index=False)
    assert shown(read_table(tmp_path / "metrics.csv")).text == shown(measured).text
    shown(measured.__class__.of(measured.head(0), "Nothing"))


def test_a_run_shows_what_was_measured(measured, tmp_path):
    run = Run(tmp_path)
    run.write_settings({"method": {"method": "maml", "modalities": ["t1"]}, "task": BRAIN.to_json(),
                        "trainer": {"epochs": 5}})
    measured.to_csv(run.metrics, index=False)
    assert shown(measured).text.partition(" ")[2][-40:] == shown(run).text[-40:]
    run.stopped.write_text(json.dumps({"signal": "SIGTERM"}))
    assert "0 of 5 epochs, stopped by SIGTERM" in shown(run).text


def test_nothing_is_changed_by_looking(brain, answered):
    import matplotlib as mpl

    before, figures = dict(mpl.rcParams), mpl.pyplot.get_fignums()
    files = dict(brain.images)
    shown(brain)
    shown(answered)
    assert dict(mpl.rcParams) == before
    assert mpl.pyplot.get_fignums() == figures
    assert brain.images == files


def test_what_cannot_be_drawn_is_said_and_never_raised():
    class Broken(Shown):
        def facts(self):
            raise OSError("<no disk>")

    html = Broken()._repr_html_()
    assert "OSError: <no disk>" in Page(html).text
    assert "<no disk>" not in html


def test_names_are_escaped_and_long_lines_cut():
    page = Page(card(Facts("<b>", {"a<": "1 < 2"}, (), ["x & y"])))
    assert page.text == "<b> a< 1 < 2 x & y"
    assert len(in_lines("a" * 500, "", "b" * 500, "c" * 500)) < 300


def test_a_plain_import_suffices_and_draws_nothing():
    said = subprocess.run([sys.executable, "-c", "import sys\nfrom maml_toolkit import Case, Task, TASKS\n"
                           "assert 'maml_toolkit.pictures' not in sys.modules\n"
                           "print(len(TASKS['brats2021']._repr_html_()))\n"
                           "assert 'maml_toolkit.pictures.cards' in sys.modules"], env=environment(), text=True,
                          capture_output=True, check=True)
    assert int(said.stdout) > 1000
