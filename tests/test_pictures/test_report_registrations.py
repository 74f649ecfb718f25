"""The page of a registration shows every moved scan and says what was refused, and the command leaves it."""

import csv
import json
import re

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from maml_toolkit.__main__ import app
from maml_toolkit.data import volumes
from maml_toolkit.data.cases import Case, find_cases
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Volume, mark_of
from maml_toolkit.pictures import report
from maml_toolkit.registration import Refused, Registration, Transform, checks, register_cases
from maml_toolkit.registration import cases as registration_cases
from maml_toolkit.system.errors import DataError

TASK = Task("two", ("flair", "t1"), {"background": 0, "lesion": 1})
AFFINE = nib.affines.from_matvec(np.eye(3) * 3, [-31.5] * 3)
SHIFT = (6.0, 0, 0)


def head(shift_mm=(0, 0, 0)) -> Volume:
    place = nib.affines.apply_affine(AFFINE, np.moveaxis(np.indices((22, 22, 22)), 0, -1)) - shift_mm
    noise = np.random.default_rng(0).uniform(0, 1, (22, 22, 22))
    array = 100.0 * (np.linalg.norm(place / [20, 24, 18], axis=-1) < 1) + 60 * (np.linalg.norm(place, axis=-1) < 8)
    return Volume((array + noise).astype(np.float32), AFFINE)


def saved(path, volume, description=""):
    volumes.write(path, volume.array, volume.affine, description)
    return path


def attempted(cases, task, out):
    """What was registered, and what is wrong with the rest."""
    problems = []
    return register_cases(cases, task, out, problems=problems), problems


@pytest.fixture
def elastix_calls(monkeypatch):
    """In the place of elastix: the true shift, a refusal with a result, and one without."""
    calls = []

    def register(fixed, moving, recipe, **_):
        calls.append(recipe.name)
        transform = Transform.linear(nib.affines.from_matvec(np.eye(3), SHIFT))
        found = Registration(transform, *checks.measured(fixed, moving, [Transform.identity(), transform], recipe.kind),
                             recipe, 1.0)
        if np.allclose(moving.array, fixed.array):
            raise Refused("worse than <nothing>", "Leave it out.", found)
        if moving.array.max() > 500:
            raise DataError("elastix died (SIGSEGV)", "Close other programs.")
        return found
    monkeypatch.setattr(registration_cases, "register", register)
    return calls


@pytest.fixture
def table(tmp_path):
    """A good case whose t1 is simulated, one that comes out worse, one on which elastix dies, one without t1."""
    folder = tmp_path / "set <u>"
    folder.mkdir()
    flair = saved(folder / "flair.nii.gz", head())
    moved = {"good": saved(folder / "good.nii.gz", head(SHIFT), "simulated phase: by hand"),
             "worse": saved(folder / "worse.nii.gz", head()),
             "dead": saved(folder / "dead.nii.gz", Volume(head().array * 10, AFFINE))}
    rows = []
    for name in ("good", "worse", "dead", "alone"):
        own = folder / f"{name}-flair.nii.gz"
        own.write_bytes(flair.read_bytes())
        rows.append([name, own.name, moved[name].name if name in moved else ""])
    with open(folder / "cases.csv", "w", newline="") as file:
        csv.writer(file).writerows([["case", "flair", "t1"], *rows])
    (folder / "two.json").write_text(json.dumps(TASK.to_json()))
    return folder / "cases.csv"


def test_the_command_leaves_a_page_and_its_exit_status_is_the_number_of_cases_that_failed(table, tmp_path,
                                                                                         elastix_calls):
    asked = ["register", str(table), str(tmp_path / "out"), "--task", str(table.parent / "two.json")]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 2, done.output
    assert "2 of 4 cases" in done.output
    html = (tmp_path / "out" / "registration.html").read_text(encoding="utf-8")
    for said in ("2 cases refused", "worse than &lt;nothing&gt;", "Leave it out.", "elastix died",
                 "Close other programs.", "Look at each", "no other scan to move", "nothing to show: see above"):
        assert said in html, said
    assert str(tmp_path) not in html
    assert "<u>" not in html
    assert not re.search(r"https?:|<script|<link|src=\"(?!data:)", html)
    assert [case.id for case in find_cases(tmp_path / "out", TASK)] == ["alone", "good"]


def test_every_moved_scan_has_a_picture_the_refused_one_too_and_what_is_simulated_says_so(table, tmp_path,
                                                                                         elastix_calls):
    cases = find_cases(table, TASK)
    done, problems = attempted(cases, TASK, tmp_path / "out")
    html = report.registration_page(cases, done, TASK, tmp_path / "page.html", problems=problems).read_text("utf-8")
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]*)"><figcaption>([^<]*)<', html)
    assert [caption for _, caption in pictures] == ["t1 (simulated) onto flair", "t1 onto flair, refused"]
    assert min(len(data) for data, _ in pictures) > 10_000
    assert html.index("<figure") < html.index("<table")
    assert html.count("simulated phase: by hand") == 2             # beside the measures and above the picture
    assert "Some of the scans are simulated" in html
    good = next(one for one in done if one.case.id == "good")
    before, after = (getattr(good.registrations["t1"], name).nmi for name in ("before", "after"))
    assert f"{before:.3f}&nbsp;→&nbsp;{after:.3f}" in html
    assert mark_of(good.case.images["t1"]) == "simulated phase: by hand"
    assert mark_of(good.case.images["flair"]) == ""
    assert "good,t1,mr,1.0,True," in (tmp_path / "out" / "registration.csv").read_text()


def test_a_case_that_was_done_before_is_shown_from_its_record(table, tmp_path, elastix_calls):
    cases = [case for case in find_cases(table, TASK) if case.id == "good"]
    first = attempted(cases, TASK, tmp_path / "out")[0]
    again = attempted(cases, TASK, tmp_path / "out")[0]
    assert elastix_calls == ["mr"]
    assert again[0].registrations["t1"].recipe == first[0].registrations["t1"].recipe
    pages = [report.registration_page(cases, done, TASK, tmp_path / "page.html").read_text("utf-8")
             for done in (first, again)]
    assert pages[0] == pages[1]


def rows_of(out):
    with open(out / "registration.csv", newline="", encoding="utf-8") as file:
        return [(row["case"], row["modality"], bool(row.get("nmi_after")), row["problem"])
                for row in csv.DictReader(file)]


def test_a_second_call_lists_the_cases_of_the_first_and_what_failed_then(table, tmp_path, elastix_calls):
    cases, out = {case.id: case for case in find_cases(table, TASK)}, tmp_path / "out"
    alone, dead = ("alone", "", False, ""), ("dead", "t1", False, "elastix died (SIGSEGV)")
    good = ("good", "t1", True, "")
    attempted([cases["alone"], cases["dead"]], TASK, out)
    assert rows_of(out) == [alone, dead]
    attempted([cases["good"]], TASK, out)
    assert rows_of(out) == [alone, dead, good]
    attempted([Case("dead", cases["good"].images)], TASK, out)          # mended
    assert rows_of(out) == [alone, ("dead", "t1", True, ""), good]
    attempted([cases["dead"]], TASK, out)                               # what is on the disk stays there
    assert rows_of(out) == [alone, ("dead", "t1", True, ""), dead, good]


def test_ids_that_look_like_numbers_stay_as_they_are_from_call_to_call(table, tmp_path, elastix_calls):
    images = {case.id: case.images for case in find_cases(table, TASK)}
    for id, name in (("001", "dead"), ("1e5", "good"), ("NA", "alone")):
        attempted([Case(id, images[name])], TASK, tmp_path / "out")
        if id == "001":
            assert not (tmp_path / "out").exists()            # nothing is there to be listed
    assert [row[0] for row in rows_of(tmp_path / "out")] == ["1e5", "NA"]


def test_the_page_of_a_second_call_has_the_measures_of_the_first(table, tmp_path, elastix_calls):
    asked = ["--task", str(table.parent / "two.json")]
    (tmp_path / "other").mkdir()
    images = {case.id: case for case in find_cases(table, TASK)}["good"].images
    with open(tmp_path / "other" / "cases.csv", "w", newline="") as file:
        csv.writer(file).writerows([["case", *images], ["later", *map(str, images.values())]])
    for source in (table, tmp_path / "other" / "cases.csv"):
        CliRunner().invoke(app, ["register", str(source), str(tmp_path / "out"), *asked])
    html = (tmp_path / "out" / "registration.html").read_text("utf-8")
    assert re.findall(r"<tr><th[^>]*>(\w+)</th><td>t1</td>", html) == ["later", "good"]
    assert "2 cases of earlier calls: alone, good" in html
    assert re.findall(r"<h3[^>]*>(\w+)</h3>", html) == ["later"]


def test_a_registration_that_is_killed_leaves_nothing_that_the_next_does_not_remove(table, tmp_path, elastix_calls):
    before = {path: path.read_bytes() for path in table.parent.rglob("*") if path.is_file()}
    left = tmp_path / "out" / ".writing-0123"
    left.mkdir(parents=True)
    (left / "good_t1.nii.gz").touch()
    attempted(find_cases(table, TASK), TASK, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["alone", "good", "registration.csv"]
    assert {path: path.read_bytes() for path in table.parent.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("moment", ["write_facts", "_write_table"])
def test_a_registration_that_is_interrupted_leaves_no_case_half_written(table, tmp_path, elastix_calls, monkeypatch,
                                                                       moment):
    cases = [case for case in find_cases(table, TASK) if case.id == "good"]
    with monkeypatch.context() as patched:
        patched.setattr(registration_cases, moment, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            attempted(cases, TASK, tmp_path / "out")
    whole = {"good"} if moment == "_write_table" else set()
    assert {path.name for path in (tmp_path / "out").iterdir()} == whole
    done, problems = attempted(cases, TASK, tmp_path / "out")
    assert [one.case.id for one in done] == ["good"]
    assert problems == []
    assert rows_of(tmp_path / "out") == [("good", "t1", True, "")]


def test_both_problems_of_a_case_are_reported(tmp_path, elastix_calls):
    task = Task("three", ("flair", "t1", "t2"), {"background": 0, "lesion": 1})
    images = {name: nib.Nifti1Image(head().array, AFFINE) for name in task.modalities}
    done, problems = attempted([Case("p", images)], task, tmp_path)
    assert done == []
    assert [(one.case, one.modality) for one in problems] == [("p", "t1"), ("p", "t2")]
    assert not list(tmp_path.iterdir())


def test_a_scan_is_simulated_where_its_header_or_its_name_says_so(tmp_path):
    assert mark_of(saved(tmp_path / "a.nii.gz", head())) == ""
    assert mark_of(saved(tmp_path / "a_simulated.nii.gz", head())) == "simulated"
    image = nib.Nifti1Image(head().array, AFFINE)
    assert mark_of(image) == ""
    image.header["descrip"] = b"Simulated, seed 3"
    assert mark_of(image) == "Simulated, seed 3"
