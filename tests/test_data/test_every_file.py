"""Nothing in a data set is dropped without a word, and no damage hides another one."""

import gzip
import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from maml_toolkit.__main__ import app
from maml_toolkit.data.audit import audit_source
from maml_toolkit.data.cases import Case, find_cases, search, write_table
from maml_toolkit.data.layouts import dataset_json
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.pictures.report import audit_page
from maml_toolkit.system.errors import DataError, DataWarning

BRATS = TASKS["brats2021"]
LPS = np.array([[-1.0, 0, 0, 90], [0, -1.5, 0, 120], [0, 0, 2, -70], [0, 0, 0, 1]])
NAMES = (*BRATS.modalities, "seg")


def noise(seed):
    return np.random.default_rng(seed).normal(100, 20, (6, 7, 8)).astype(np.float32)


def put(path, array, affine=LPS):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def data_set(folder, ids):
    for number, id in enumerate(ids):
        label = np.zeros((6, 7, 8), np.uint8)
        label.flat[number:number + 3] = 1, 2, 4
        for index, name in enumerate(BRATS.modalities):
            put(folder / id / f"{id}_{name}.nii.gz", noise(10 * number + index))
        put(folder / id / f"{id}_seg.nii.gz", label)
    return folder


def rewritten(change):
    """The decompressed bytes of a file, changed and compressed again."""
    def damage(path):
        content = bytearray(gzip.decompress(path.read_bytes()))
        change(content)
        path.write_bytes(gzip.compress(bytes(content)))
    return damage


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def with_nan(path):
    array = noise(99)
    array[0, 0, 0] = np.nan
    put(path, array)


def replaced_by_link(path):
    path.unlink()
    path.symlink_to("../../.git/annex/objects/Xx/MD5E-s99--0a1b.nii.gz")


def replaced_by_folder(path):
    inside = path.read_bytes()
    path.unlink()
    path.mkdir()
    (path / "inside.nii.gz").write_bytes(inside)        # as some programs unpack it


DAMAGES = {                                             # the modality of the finding, its damage
    "doubled": ("t1", lambda path: put(path.with_suffix(""), noise(98))),
    "truncated": ("t1ce", lambda path: path.write_bytes(path.read_bytes()[:-20])),
    "flipped": ("t2", flipped),
    "nan": ("flair", with_nan),
    "moved": ("t2", lambda path: put(path, noise(97), LPS + np.eye(4, k=3) * 5)),
    "frames": ("t1ce", lambda path: put(path, np.stack([noise(96), noise(95)], axis=-1))),
    "constant": ("flair", lambda path: put(path, np.ones((6, 7, 8), np.float32))),
    "empty": ("t1", lambda path: path.write_bytes(b"")),
    "web_page": ("t2", lambda path: path.write_bytes(b"<html>login</html>")),
    "dangling": ("t2", replaced_by_link),
    "format": ("flair", lambda path: path.rename(path.with_name(path.name.replace(".nii.gz", ".nrrd")))),
    "unfinished": ("t1ce", lambda path: path.rename(path.with_name(path.name + ".part"))),
    "folder": ("t1", replaced_by_folder),
    "name": (None, lambda path: path.rename(path.with_name("T7.nii.gz"))),
    "negative": ("t1", rewritten(lambda content: content.__setitem__(slice(80, 84), np.float32(-1).tobytes()))),
    "annex": ("t2", lambda path: path.write_bytes(b"/annex/objects/MD5E-s99--0a1b.nii.gz\n")),
}
ALSO = {"no_label": ("seg", os.unlink)}                 # the sixteen above are of scans


def damaged(folder, damage):
    modality, change = {**DAMAGES, **ALSO}[damage]
    change(folder / damage / f"{damage}_{modality or 't1'}.nii.gz")
    return modality


def found(audited):
    return {(error.case, error.modality, error.problem) for error in audited.errors}


def test_sixteen_faults_are_found_alike_with_a_task_and_without_one(tmp_path):
    folder = data_set(tmp_path, [*DAMAGES, *ALSO, "good"])
    wanted = {damage: damaged(folder, damage) for damage in [*DAMAGES, *ALSO]}
    named, guessed = audit_source(folder, BRATS), audit_source(folder)
    assert guessed.task is BRATS
    assert found(named) == found(guessed)
    assert named.images == guessed.images == 5 * 18 - 2 + 1 - 1 + 1     # no .nrrd, no .part; doubled; no label; inside
    for damage, modality in wanted.items():
        of_it = [error for error in guessed.errors if error.case == damage]
        assert of_it, damage
        assert all(error.remedy for error in of_it)
        if damage in DAMAGES and modality:
            assert modality in {error.modality for error in of_it}, damage
    assert {error.case for error in guessed.errors} == set(wanted)
    dangling, = [error for error in guessed.errors if error.case == "dangling"]
    assert (dangling.modality, dangling.path) == ("t2", folder / "dangling" / "dangling_t2.nii.gz")
    assert "link to nothing" in dangling.problem
    for damage in ("format", "unfinished"):
        assert next(error for error in guessed.errors if error.case == damage).path.parent == folder / damage
    assert "Convert" in next(error for error in guessed.errors if error.case == "format").remedy


def test_more_damage_never_means_that_less_is_looked_at(tmp_path):
    folder = data_set(tmp_path, [*DAMAGES, "good"])
    before = audit_source(folder)
    assert (before.task, before.errors, before.images) == (BRATS, (), 5 * 17)
    for damage in DAMAGES:
        damaged(folder, damage)
        after = audit_source(folder)
        assert after.task is BRATS
        assert found(before) < found(after), damage
        assert after.images >= before.images - (damage in ("format", "unfinished"))
        before = after


def test_all_images_of_a_modality_that_the_task_does_not_use_are_opened_too(tmp_path):
    folder = data_set(tmp_path, ["nan", "good"])
    damaged(folder, "nan")
    two = Task("two", ("t1", "t2"), BRATS.labels)
    audited = audit_source(folder, two)
    error, = audited.errors
    assert (error.case, error.modality, error.path) == ("nan", "flair", folder / "nan" / "nan_flair.nii.gz")
    assert (audited.images, len(audited.unused)) == (10, 4)
    assert {path.name for path in audited.unused} == {f"{id}_{name}.nii.gz" for id in ("nan", "good")
                                                      for name in ("t1ce", "flair")}
    assert len(find_cases(folder, two)) == 2


def test_a_task_is_asked_for_where_names_do_not_tell_it(tmp_path):
    venous = put(tmp_path / "a" / "a" / "a_venous.nii.gz", noise(1) * 20 - 2000)
    audited = audit_source(tmp_path / "a")
    assert [word in audited.oddities[0].problem for word in ("liver_phases", "chaos_ct")] == [True, True]
    assert "--task" in audited.oddities[0].remedy
    assert audited.errors == ()
    venous.rename(venous.with_name("a_pet.nii.gz"))
    audited = audit_source(tmp_path / "a")
    assert audited.images == 1
    assert "--task" in next(error for error in audited.errors if error.case is None).remedy


@pytest.mark.parametrize("make", ["folders", "nnunet", "decathlon"])
def test_a_folder_is_searched_once_though_nobody_named_the_task(tmp_path, monkeypatch, make):
    makers = {"folders": lambda folder: data_set(folder, ["A", "B"]), "nnunet": nnunet, "decathlon": decathlon}
    folder = makers[make](tmp_path)
    listed, described = [], []
    scandir, read = os.scandir, dataset_json.read
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    monkeypatch.setattr(dataset_json, "read", lambda *given: described.append(given) or read(*given))
    assert audit_source(folder).images > 0
    assert sorted(listed) == sorted({str(folder), *(str(path) for path in folder.rglob("*") if path.is_dir())})
    assert len(described) == (make != "folders")


IGNORED = {"._t1.nii.gz": "hidden files", ".DS_Store": "hidden files", "Thumbs.db": "of the operating system files",
           "desktop.ini": "of the operating system files", "good_t1.json": "sidecars", "good_dwi.bval": "sidecars",
           "good_dwi.bvec": "sidecars", "ages.csv": "tables", "good.xlsx": "tables", "README": "texts",
           "report.pdf": "texts", "preview.png": "pictures", "load.py": "programs", "good.md5": "checksums"}


def test_what_is_known_to_be_no_scan_is_counted_by_its_rule(tmp_path):
    folder = data_set(tmp_path, ["good"])
    for name in IGNORED:
        (folder / "good" / name).write_bytes(b"1")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "good_t1.nii.gz").write_bytes(b"1")
    for number, own in enumerate((("prediction.json", "good_seg.nii.gz", "good_prob.nii.gz"),
                                  ("prediction.json", "labels.nii.gz"), ("case.json", "foreground.npy"))):
        (folder / f"out{number}" / "good").mkdir(parents=True)
        for name in own:
            (folder / f"out{number}" / "good" / name).write_bytes(b"1")
    (folder / "runs" / "first" / "checkpoints").mkdir(parents=True)
    (folder / "runs" / "first" / "settings.json").write_text("{}")
    audited = audit_source(folder, BRATS)
    assert (audited.errors, audited.oddities, audited.images) == ((), (), 5)
    counts = {rule: list(IGNORED.values()).count(rule) for rule in IGNORED.values()}
    assert audited.ignored == {**counts, "of the operating system folders": 1, "predictions of the toolkit": 2,
                               "prepared arrays of the toolkit": 1, "runs of the toolkit": 1}
    for rule, number in counts.items():
        assert f"{number} {rule}" in audited.account
    assert "5 image files" in audited.account
    html = audit_page(audited, tmp_path / "page.html", folder).read_text()
    assert audited.account in html


@pytest.mark.parametrize("name", [
    "good_t2.mha", "good_t2.mhd", "good_t2.nrrd", "good_t2.img", "good_t2.hdr", "good_t2.mgz", "good_t2.img.gz",
    "good_t2.nii.gz.part", "good_t2.nii.zip", "good_t2.nii.gz.crdownload", "good_t2.nii (1).gz", ".good_t2.nii.gz.Xy1",
    "good_t2.nii.gz.txt", "t2.mnc"])
def test_what_stands_in_the_place_of_a_missing_scan_is_an_error_and_else_it_is_odd(tmp_path, name):
    folder = data_set(tmp_path, ["good"])
    stray = folder / "good" / name
    stray.write_bytes(b"1" * 200)
    audited = audit_source(folder, BRATS)
    assert audited.errors == ()
    assert [(one.case, one.modality, one.path) for one in audited.oddities] == [("good", "t2", stray)]
    assert audited.oddities[0].remedy
    with pytest.warns(DataWarning, match="good"):
        find_cases(folder, BRATS)
    (folder / "good" / "good_t2.nii.gz").unlink()
    for problems in (audit_source(folder, BRATS).errors, search(folder, BRATS).problems):
        assert [(one.case, one.modality, one.path) for one in problems] == [("good", "t2", stray)]


def test_an_image_in_two_files_is_told_once_and_the_slices_of_a_folder_together(tmp_path):
    folder = data_set(tmp_path, ["good"])
    for name in ("x.hdr", "x.img", "y.mhd", "y.raw", "z.bin"):
        (folder / "good" / name).write_bytes(b"1")
    for number in range(3):
        (folder / "good" / "series").mkdir(exist_ok=True)
        (folder / "good" / "series" / f"IM{number}").write_bytes(bytes(128) + b"DICM")
        (folder / "good" / "series" / f"{number}.dcm").write_bytes(b"1")
    oddities = audit_source(folder, BRATS).oddities
    assert {one.path.name for one in oddities} == {"x.img", "y.mhd", "z.bin", "0.dcm"}
    assert "6 in this folder" in next(one for one in oddities if one.path.suffix == ".dcm").problem


def test_links_that_lead_nowhere_or_back_pipes_and_closed_folders_are_named(tmp_path, monkeypatch):
    folder = data_set(tmp_path / "data", ["good", "closed"])
    (folder / "loop").symlink_to(folder)
    (folder / "itself").symlink_to(folder / "itself")
    (folder / "gone").symlink_to(tmp_path / "unmounted" / "gone")
    os.mkfifo(folder / "good" / "good_t1w.nii.gz")
    os.unlink(folder / "good" / "good_t1.nii.gz")
    scandir = os.scandir

    def closed(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    errors = audit_source(folder, BRATS).errors
    assert {(one.case, one.modality, one.path.name) for one in errors} == {
        ("loop", None, "loop"), ("itself", None, "itself"), ("gone", None, "gone"), ("closed", None, "closed"),
        ("good", "t1", "good_t1w.nii.gz")}
    assert all(one.remedy for one in errors)


def test_a_link_keeps_its_own_name(tmp_path):
    store = data_set(tmp_path / "store", ["stored"])
    data = tmp_path / "data"
    (data / "single").mkdir(parents=True)
    (data / "A").symlink_to(store / "stored")                   # files named after the target
    put(tmp_path / "other" / "t1.nii.gz", noise(1))
    (data / "B").symlink_to(tmp_path / "other")                 # files named after the modality alone
    put(tmp_path / "0815.nii.gz", noise(2))
    (data / "single" / "single_t1.nii.gz").symlink_to(tmp_path / "0815.nii.gz")
    cases = {case.id: case for case in find_cases(data, BRATS)}
    assert list(cases) == ["A", "B", "single"]
    assert (cases["A"].modalities, cases["A"].label.parent) == (BRATS.modalities, data / "A")
    assert find_cases(data / "A", BRATS)[0].id == "A"
    assert cases["single"].images == {"t1": data / "single" / "single_t1.nii.gz"}


def nnunet(folder, names=("t1", "t2"), **described):
    for number, id in enumerate(("A", "B")):
        for channel in range(len(names)):
            put(folder / "imagesTr" / f"{id}_{channel:04d}.nii.gz", noise(10 * number + channel))
        label = np.zeros((6, 7, 8), np.uint8)
        label.flat[number] = 1
        put(folder / "labelsTr" / f"{id}.nii.gz", label)
    put(folder / "imagesTs" / "C_0000.nii.gz", noise(50))
    described = described or {"channel_names": {str(i): name for i, name in enumerate(names)}, "file_ending": ".nii.gz",
                              "labels": {"background": 0, "lesion": 1}}
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def decathlon(folder):
    for number, id in enumerate(("A", "B")):
        put(folder / "imagesTr" / f"{id}.nii.gz", np.stack([noise(number), noise(10 + number)], axis=-1))
        label = np.zeros((6, 7, 8), np.uint8)
        label.flat[number] = 1
        put(folder / "labelsTr" / f"{id}.nii.gz", label)
    put(folder / "imagesTs" / "C.nii.gz", np.stack([noise(5), noise(6)], axis=-1))
    (folder / "dataset.json").write_text(json.dumps(
        {"modality": {"0": "T1", "1": "T2"}, "labels": {"0": "background", "1": "lesion"}}))
    return folder


MS = TASKS["ms_lesions"]


def test_every_image_of_nnunet_is_looked_at_and_every_entry_accounted_for(tmp_path):
    folder = nnunet(tmp_path, ("T1", "PD"))
    (folder / "dataset.json").write_text((folder / "dataset.json").read_text().replace("PD", "t1c"))
    task = Task("one", ("t1",), MS.labels)
    assert (audit_source(folder, task).errors, audit_source(folder, task).images) == ((), 7)
    put(folder / "extra" / "D.nii.gz", noise(60))
    (folder / "imagesTr" / "E_0000.nii.gz").symlink_to("nowhere")
    (folder / "imagesTr" / "B_0000.nii.gz").rename(folder / "imagesTr" / "B_0000.nrrd")
    (folder / "imagesTr" / "A_0001.NII.GZ").write_bytes((folder / "imagesTr" / "A_0001.nii.gz").read_bytes())
    for name in ("A_0001", "C_0000"):                    # not used by the task; of the other part
        path = folder / ("imagesTr" if name[0] == "A" else "imagesTs") / f"{name}.nii.gz"
        path.write_bytes(path.read_bytes()[:-9])
    (folder / "imagesTs" / "C_0000.json").write_text("{}")
    audited = audit_source(folder, task)
    assert {(error.case, error.path.name) for error in audited.errors if error.path} == {
        ("D", "D.nii.gz"), ("E", "E_0000.nii.gz"), ("B", "B_0000.nrrd"), (None, "A_0001.NII.GZ"),
        ("A", "A_0001.nii.gz"), ("C", "C_0000.nii.gz"), ("B", "B.nii.gz")}          # B is left with its label alone
    assert {error.modality for error in audited.errors if error.path.suffix == ".nrrd" or error.case == "E"} == {"t1"}
    assert audited.images == 7 - 1 + 3
    assert search(folder, task).cases[0].id == "A"
    assert "C" not in {error.case for error in search(folder, task).problems}


def test_every_image_of_the_decathlon_is_looked_at_and_a_link_to_nothing_is_named(tmp_path):
    folder = decathlon(tmp_path)
    assert (audit_source(folder, MS).errors, audit_source(folder, MS).images) == ((), 5)
    replaced_by_link(folder / "imagesTr" / "A.nii.gz")
    with_nan(folder / "imagesTs" / "D.nii.gz")
    put(folder / "imagesTs" / "C.nii.gz", np.stack([noise(5), np.ones((6, 7, 8))], axis=-1))
    errors = {(error.case, error.modality, error.path.name) for error in audit_source(folder, MS).errors}
    assert errors >= {("A", None, "A.nii.gz"), ("C", "t2", "C.nii.gz"), ("D", None, "D.nii.gz")}
    assert {case for case, _, _ in errors} == {"A", "C", "D"}


def test_every_cell_of_a_table_is_looked_at(tmp_path):
    folder = data_set(tmp_path, ["good", "bad"])
    replaced_by_link(folder / "bad" / "bad_t2.nii.gz")
    with_nan(folder / "bad" / "bad_flair.nii.gz")
    (folder / "bad" / "bad_t1ce.nii.gz").rename(folder / "bad" / "bad_t1ce.mha")
    rows = [f"{id},{id}/{id}_t1.nii.gz,{id}/{id}_t2.nii.gz,{id}/{id}_t1ce.{end},{id}/{id}_flair.nii.gz,"
            f"{id}/{id}_seg.nii.gz" for id, end in (("good", "nii.gz"), ("bad", "mha"))]
    (folder / "cases.csv").write_text("\n".join(["case,t1,t2,t1ce,t2star,label", *rows]) + "\n")
    audited = audit_source(folder / "cases.csv", BRATS)
    assert {(one.case, one.modality, one.path.name) for one in audited.errors} == {
        ("bad", "t2", "bad_t2.nii.gz"), ("bad", "t1ce", "bad_t1ce.mha"), ("bad", None, "bad_flair.nii.gz"),
        (None, None, "cases.csv")}
    assert audited.images == 10


def latin(tmp_path):
    """A data set with a case whose name is not UTF-8."""
    folder = data_set(tmp_path, ["good", "x"])
    bad = os.fsencode(folder) + b"/M\xfcller"
    os.rename(folder / "x", bad)
    for name in os.listdir(bad):
        os.rename(bad + b"/" + name, bad + b"/M\xfcller" + name[1:])
    return folder


def test_a_name_in_another_encoding_is_escaped_wherever_it_is_written(tmp_path):
    folder = latin(tmp_path / "data")
    with_nan(next(path for path in folder.rglob("*_t2.nii.gz") if "good" not in path.name))
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["audit", str(folder), "--task", "brats2021", "--page", str(page)])
    assert done.exit_code == 2
    assert r"M\xfcller" in done.output
    assert r"M\xfcller" in page.read_text(encoding="utf-8")
    audited = audit_source(folder, BRATS)
    assert audited.images == 10
    assert ["UTF-8" in audited.errors[0].problem, "NaN" in audited.errors[1].problem] == [True, True]
    audited.table().to_csv(tmp_path / "table.csv")
    assert r"M\xfcller" in (tmp_path / "table.csv").read_text(encoding="utf-8")
    with pytest.raises(DataError, match=r"M\\xfcller") as caught:
        find_cases(folder, BRATS)
    assert str(caught.value).encode()
    assert caught.value.remedy


def test_a_folder_in_another_encoding_is_read_and_no_table_or_job_takes_it(tmp_path, monkeypatch):
    strange = tmp_path / os.fsdecode(b"M\xfcller")
    cases = find_cases(data_set(strange, ["good"]), BRATS)
    assert audit_source(strange, BRATS).errors == ()
    page = audit_page(audit_source(strange, BRATS), strange / "page.html", strange)
    assert r"M\xfcller" in page.read_text(encoding="utf-8")
    with pytest.raises(DataError, match="UTF-8") as caught:
        write_table(cases, tmp_path / "cases.csv", BRATS)
    assert {error.case for error in caught.value.errors} == {"good"}
    assert not (tmp_path / "cases.csv").exists()
    monkeypatch.chdir(strange)
    for words in (["--data", str(strange)], ["--data", "."]):
        done = CliRunner().invoke(app, ["prepare", *words, "--out", "prepared"])
        assert done.exit_code == 1
        assert r"M\xfcller" in done.output
    assert not (strange / "prepared").exists()
    with pytest.raises(DataError, match=r"M\\xfcller.*UTF-8"):
        Case(os.fsdecode(b"M\xfcller"))


def test_a_copy_of_the_folder_under_another_place_gives_the_same_answer(tmp_path):
    folder = data_set(tmp_path / "one" / "data", ["nan", "dangling"])
    for damage in ("nan", "dangling"):
        damaged(folder, damage)
    deep = shutil.copytree(folder, tmp_path / "a" / "b" / "c" / "d" / "e", symlinks=True)
    assert found(audit_source(tmp_path / "a", BRATS)) == found(audit_source(folder, BRATS)) != set()
    assert {case.id for case in search(deep, BRATS).cases} == {"nan", "dangling"}
