import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import Case, find_cases, same_twice, search, task_of, write_cases, write_table
from maml_toolkit.data.splits import kfold, select
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.data.volumes import Frame
from maml_toolkit.system.errors import DataError

BRATS = TASKS["brats2021"]
LABELS = {"background": 0, "NCR": 1, "ED": 2, "ET": 4}


@pytest.fixture
def touch(tmp_path):
    """Makes files; finding cases does not look into them."""

    def touch(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"\x1f\x8b")
        return tmp_path

    return touch


@pytest.fixture
def nnunet(touch):
    """An nnU-Net v2 data set of two cases, the second without its T1."""

    def nnunet(labels=LABELS, channels=("T1", "T2"), file_ending=".nii.gz", **more):
        folder = touch("imagesTr/A_0000.nii.gz", "imagesTr/A_0001.nii.gz", "imagesTr/B_1_0001.nii.gz",
                       "imagesTr/._A_0000.nii.gz", "labelsTr/A.nii.gz", "labelsTr/B_1.nii.gz",
                       "imagesTs/C_0000.nii.gz")
        described = {"channel_names": {str(i): name for i, name in enumerate(channels)}, "labels": labels,
                     "file_ending": file_ending, "numTraining": 2, **more}
        (folder / "dataset.json").write_text(json.dumps(described))
        return folder

    return nnunet


@pytest.fixture
def table(touch):
    """A table in the test's folder."""

    def table(*rows, name="cases.csv"):
        path = touch() / name
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        return path

    return table


def refusal(source, task=BRATS, **more):
    """The message, in which every problem has a remedy."""
    with pytest.raises(DataError) as caught:
        find_cases(source, task, **more)
    assert all(error.remedy for error in caught.value.errors)
    return str(caught.value)


def held(cases):
    return {case.id: ([*case.images], case.label is not None) for case in cases}


def test_brats_2021_is_found_in_the_order_of_ids_and_of_the_task(touch):
    folder = touch(*(f"{id}/{id}_{name}.nii.gz" for id in "BA" for name in (*BRATS.modalities[::-1], "seg")))
    cases = find_cases(folder, BRATS)
    assert held(cases) == {id: (["t1", "t1ce", "t2", "flair"], True) for id in "AB"}
    assert [case.id for case in cases] == ["A", "B"]
    assert cases[0].images["flair"] == folder / "A/A_flair.nii.gz"
    assert cases[0].modalities == BRATS.modalities


def test_brats_2023_is_found_under_its_hyphens_and_synonyms(touch):
    id = "BraTS-GLI-00001-000"
    folder = touch(*(f"{id}/{id}-{name}.nii.gz" for name in ("t1n", "t1c", "t2w", "t2f", "seg")))
    assert held(find_cases(str(folder), BRATS)) == {id: ([*BRATS.modalities], True)}


def test_time_points_of_brats_share_their_patient_and_stay_on_one_side(touch):
    ids = ["BraTS-GLI-00005-100", "BraTS-GLI-00005-101", "BraTS-MET-00006-000", "BraTS20_Training_001", "P-00005-100"]
    cases = find_cases(touch(*(f"{id}/{id}-t1n.nii.gz" for id in ids)), TASKS["brats2024"])
    assert {case.id: case.patient for case in cases} == dict(zip(
        ids, ["BraTS-GLI-00005", "BraTS-GLI-00005", "BraTS-MET-00006", None, None], strict=True))
    for training, test in kfold(cases, 2):
        assert not {case.patient or case.id for case in training} & {case.patient or case.id for case in test}


def test_brats_2020_is_found_beside_its_tables(touch):
    ids = [f"BraTS20_Training_{number:03d}" for number in (1, 2)]
    folder = touch(*(f"MICCAI_BraTS2020_TrainingData/{id}/{id}_{name}.nii" for id in ids for name in ("t1ce", "seg")),
                   "MICCAI_BraTS2020_TrainingData/name_mapping.csv", "MICCAI_BraTS2020_TrainingData/survival_info.csv")
    for source in (folder, folder / "MICCAI_BraTS2020_TrainingData"):
        assert held(find_cases(source, BRATS)) == {id: (["t1ce"], True) for id in ids}
    touch(f"MICCAI_BraTS2020_TrainingData/{ids[0]}/W39_1998.09.19_Segm.nii")        # as it was published
    message = refusal(folder)
    assert f"case {ids[0]}, file" in message
    assert "W39_1998.09.19_Segm.nii" in message
    assert "Rename it" in message


def test_brats_of_2015_is_to_be_converted_first(touch):
    scan = "HGG/brats_2013_pat0001_1/VSD.Brain.XX.O.MR_Flair.54512/VSD.Brain.XX.O.MR_Flair.54512.mha"
    for folder in (touch("2015/" + scan) / "2015", touch("deeper/BRATS2015_Training/" + scan) / "deeper"):
        message = refusal(folder, TASKS["brats2015"])
        assert "no case was found" in message
        assert scan in message
        assert "Convert the .mha files to NIfTI, named <case>/<case>_<modality>.nii.gz (SimpleITK" in message
    message = refusal(touch("ct/P1/IM0001.dcm") / "ct")
    assert "Convert the .dcm files" in message
    assert "SimpleITK" not in message


def test_plain_names_deeper_folders_and_a_folder_that_is_the_case_are_found(touch):
    folder = touch("HGG/A/flair.nii.gz", "HGG/A/T2W.nii", "LGG/B/B.t1.nii.gz", "LGG/B/mask.nii.gz",
                   "LGG/B/notes.txt")
    assert held(find_cases(folder, BRATS)) == {"A": (["t2", "flair"], False), "B": (["t1"], True)}
    assert held(find_cases(folder / "HGG" / "A", BRATS)) == {"A": (["t2", "flair"], False)}


def test_the_published_scans_are_found(real_data):
    cases = find_cases(real_data / "brats2021_2mm", BRATS)
    assert len(cases) == 8
    assert all(case.modalities == BRATS.modalities and case.label for case in cases)
    assert [case.id for case in find_cases(real_data / "open_ms_2mm", TASKS["ms_lesions"])] == [
        "patient07", "patient19", "patient26"]
    for task in ("liver_phases", "chaos_ct"):
        found = held(find_cases(real_data / "chaos_ct", TASKS[task]))
        assert found == {"chaos_ct_eval": (["venous"], True)}
    found = held(find_cases(real_data / "prostatex" / "ProstateX-0000", TASKS["prostatex"]))
    assert found == {"ProstateX-0000": (["t2w", "adc", "hbv"], True)}


def test_files_of_macos_and_hidden_folders_are_skipped(touch):
    folder = touch("A/A_t1.nii.gz", "A/._A_t1.nii.gz", ".trash/B/B_t1.nii.gz", "__MACOSX/A/._A_t1.nii.gz")
    assert held(find_cases(folder, BRATS)) == {"A": (["t1"], False)}


def test_a_known_modality_that_the_task_does_not_use_is_left_out(touch):
    two = Task("two", ("t1", "flair"), {"background": 0, "lesion": 1})
    folder = touch(*(f"A/A_{name}.nii.gz" for name in ("flair", "t1", "t1ce", "t2", "seg")))
    assert held(find_cases(folder, two)) == {"A": (["t1", "flair"], True)}


def test_an_unknown_modality_is_an_error_with_the_nearest_match(touch):
    message = refusal(touch("A/A_t1.nii.gz", "A/A_fliar.nii.gz", "B/B_t7.nii.gz"))
    assert "2 problems" in message
    assert "case A, file" in message
    assert "A_fliar.nii.gz" in message
    assert "Did you mean 'flair'?" in message
    assert "B_t7.nii.gz" in message


def test_a_file_named_after_another_case_is_an_error(touch):
    message = refusal(touch("A/B_t1.nii.gz"))
    assert "case A" in message
    assert "expected 'A_<modality>' or '<modality>' alone" in message


def test_the_folder_of_a_single_case_may_have_any_name(touch):
    folder = touch(*(f"my_case/BraTS2021_01485_{name}.nii.gz" for name in ("flair", "t1", "t1ce", "t2", "seg")))
    assert held(find_cases(folder / "my_case", BRATS)) == {"BraTS2021_01485": (["t1", "t1ce", "t2", "flair"], True)}
    assert search(folder / "my_case", None).task.modalities == BRATS.modalities
    assert "case my_case" in refusal(folder)                   # in a data set the folder names the case
    touch("my_case/BraTS2021_01485_fliar.nii.gz", "my_case/BraTS2021_01485_t2.nrrd")
    found = search(folder / "my_case", BRATS)
    assert [(one.case, one.path.name) for one in (*found.problems, *found.oddities)] == [
        ("BraTS2021_01485", "BraTS2021_01485_fliar.nii.gz"), ("BraTS2021_01485", "BraTS2021_01485_t2.nrrd")]


@pytest.mark.parametrize("second", ["p2_t2", "p1_t2_old", "p1-2_t2"])
def test_files_that_begin_otherwise_are_no_single_case(touch, second):
    folder = touch("my_case/p1_t1.nii.gz", f"my_case/{second}.nii.gz", "my_case/seg.nii.gz")
    assert "my_case" in refusal(folder / "my_case")


def test_what_a_data_set_ignores_is_none_of_the_classes_of_a_task(nnunet):
    """The values are the same, and 3 is what nobody labelled there and the enhancing tumour here."""
    task = Task("brain", ("t1", "t2"), {"background": 0, "necrosis": 1, "oedema": 2, "enhancing": 3})
    stated = {"background": 0, "necrosis": 1, "edema": 2}
    assert "'ignore': 3" in refusal(nnunet(labels=stated | {"ignore": 3}), task)
    two = Task("brain", ("t1", "t2"), {"background": 0, "necrosis": 1, "oedema": 2}, ignore=3)
    assert len(find_cases(nnunet(labels=stated | {"ignore": 3}), two)) == 2


@pytest.mark.parametrize("other", ["A/A_t1ce.nii", "A/A_t1c.nii.gz", "A/T1Gd.nii.gz"])
def test_two_files_for_one_modality_are_both_named(touch, other):
    message = refusal(touch("A/A_t1ce.nii.gz", other))
    assert "A_t1ce.nii.gz" in message
    assert other in message
    assert "modality t1ce" in message


def test_an_uncompressed_twin_beside_a_file_is_an_error_in_every_layout(touch, table, nnunet):
    touch("A.nii.gz", "A.nii", "ok.nii")
    for message in (refusal(table("case,t1,label", "P,A.nii.gz,ok.nii")), refusal(table("case,label", "P,A.nii.gz"))):
        assert "case P" in message
        assert "A.nii.gz, " in message
        assert "A.nii\n" in message
        assert "SimpleITK" in message
    assert held(find_cases(table("case,t1", "P,A.nii"), BRATS)) == {"P": (["t1"], False)}
    folder = nnunet()
    touch("labelsTr/A.nii")
    message = refusal(folder)
    assert "case A, modality label" in message
    assert "expected <case>.nii.gz" in message


def test_what_can_be_understood_is_found_beside_what_cannot(touch):
    folder = touch("A/A_t1.nii.gz", "A/A_fliar.nii.gz", "A/B_t2.nii.gz", "B/B_t1.nii.gz", "B/T1n.nii.gz", "B/flair.nii",
                   "C/C_t7.nii.gz", "D/t1.nii.gz", "D/seg.nii")
    found = search(folder, BRATS)
    cases, problems = found.cases, found.problems
    assert held(cases) == {"A": (["t1"], False), "B": (["flair"], False), "D": (["t1"], True)}
    assert sorted((error.case, error.path.name) for error in problems) == [
        ("A", "A_fliar.nii.gz"), ("A", "B_t2.nii.gz"), ("B", "B_t1.nii.gz"), ("C", "C_t7.nii.gz")]
    assert all(error.remedy for error in problems)
    with pytest.raises(DataError, match="4 problems"):
        find_cases(folder, BRATS)


def test_what_can_be_understood_of_a_table_is_found(touch, table):
    touch("x.nii", "y.nii", "z.nii")
    path = table("case,t1,t2,t7", "A,x.nii,gone.nii,y.nii", "B,gone.nii,,", "C,z.nii,,", "D,,,", "E,y.nii")
    found = search(path, BRATS)
    cases, problems = found.cases, found.problems
    assert held(cases) == {"A": (["t1"], False), "C": (["t1"], False), "D": ([], False)}
    assert [error.case for error in problems] == [None, "A", "B", "E"]


def test_what_can_be_understood_of_nnunet_is_found(nnunet, touch):
    folder = nnunet(labels={"background": 0, "lesion": 1}, channels=("T1", "T7"))
    touch("imagesTr/A_0007.nii.gz")
    found = search(folder, BRATS)
    cases, problems = found.cases, found.problems
    assert held(cases) == {"A": (["t1"], True), "B_1": ([], True)}
    assert [error.case for error in problems] == [None, None, "A"]
    assert "found the labels" in problems[0].problem
    assert "'T7'" in problems[1].problem


def test_a_source_that_is_nothing_is_a_problem_and_no_exception(touch, table):
    for source, message in ((touch() / "elsewhere", "found nothing here"), (touch("scans.zip") / "scans.zip", "a file"),
                            (touch("notes/a.txt") / "notes", "no case was found"), (table("case,t1"), "no rows")):
        found = search(source, BRATS)
        cases, problems = found.cases, found.problems
        assert cases == []
        assert [(error.path, bool(error.remedy)) for error in problems] == [(source, True)]
        assert message in problems[0].problem
    with pytest.raises(ValueError, match="'training'"):
        search(touch(), BRATS, part="validation")


def test_an_empty_folder_says_what_was_looked_for_and_what_is_there(touch):
    message = refusal(touch("scans.zip", "readme.txt"))
    assert "readme.txt, scans.zip" in message
    assert "nnU-Net" in message
    assert "found nothing here" in refusal(touch() / "elsewhere")
    assert "expected one folder a case" in refusal(touch() / "scans.zip")


def test_names_with_accents_spaces_and_great_length_are_ids(touch):
    ids = ["Müller, Jörg", "患者 1", "x" * 200]
    assert sorted(held(find_cases(touch(*(f"{id}/{id}_t1.nii.gz" for id in ids)), BRATS))) == sorted(ids)


def test_ids_that_are_equal_or_equal_but_for_case_are_refused(touch):
    message = refusal(touch("case1/t1.nii.gz", "CASE1/t1.nii.gz", "HGG/X/t1.nii.gz", "LGG/X/t1.nii.gz"))
    assert "but for letter case" in message
    assert "CASE1/t1.nii.gz" in message
    assert "case1/t1.nii.gz" in message
    assert "the id 'X' belongs to two cases" in message


@pytest.mark.parametrize("id", ["../../x", "a/b", "a\\b", "..", "", " "])
def test_an_id_that_could_leave_its_folder_is_refused(id):
    with pytest.raises(DataError, match="case id") as caught:
        Case(id)
    assert caught.value.remedy


def test_the_patient_and_the_label_may_be_left_out_and_images_may_be_in_memory():
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    case = Case("A", {"t1": image})
    assert case.modalities == ("t1",)
    assert same_twice([case, Case("B", {"t1": image})]) == []
    assert "images in memory" in str(same_twice([case, case])[0])


def test_nnunet_is_found_with_channels_missing(nnunet):
    folder = nnunet()
    cases = find_cases(folder, BRATS)
    assert held(cases) == {"A": (["t1", "t2"], True), "B_1": (["t2"], True)}
    assert cases[1].label == folder / "labelsTr/B_1.nii.gz"
    assert held(find_cases(folder, BRATS, part="test")) == {"C": (["t1"], False)}


def test_the_labels_of_nnunet_must_agree_with_the_task(nnunet):
    message = refusal(nnunet(labels={"background": 0, "NCR": 1, "ED": 2, "ET": 3}))
    assert "'ET': 3" in message
    assert "[0, 1, 2, 4]" in message
    assert "dataset.json" in message
    assert "write the task" in message
    moved = {"background": 0, "oedema": 1, "necrosis": 2, "enhancing": 4}
    assert "expected the values" in refusal(nnunet(labels=moved))


def test_a_task_can_take_the_values_of_nnunet_where_the_classes_have_its_names(nnunet):
    folder = nnunet(labels={"background": 0, "Enhancing": 1, "necrosis": 2, "oedema": 3})
    assert "cases.task_of(source, task)" in refusal(folder)
    task = task_of(folder, BRATS)
    assert task.labels == {"background": (0,), "necrosis": (2,), "oedema": (3,), "enhancing": (1,)}
    assert (task.regions, task.modalities) == (BRATS.regions, BRATS.modalities)
    assert [case.id for case in find_cases(folder, task)] == ["A", "B_1"]


@pytest.mark.parametrize("labels", [
    LABELS, {"background": 0, "necrosis": 1, "oedema": 2},
    {"background": 0, "necrosis": 1, "oedema": 1, "enhancing": 2},
    {"background": 0, "necrosis": [1, 2], "oedema": 2, "enhancing": 3},
])
def test_a_task_stays_as_it_is_where_no_values_are_stated_for_its_classes(nnunet, touch, labels):
    assert task_of(nnunet(labels=labels), BRATS) is BRATS
    assert task_of(touch("other/A/A_t1.nii.gz") / "other", BRATS) is BRATS


def test_one_value_must_not_be_another_class_under_a_synonym(nnunet):
    msd = {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumour": 3}
    message = refusal(nnunet(labels=msd), TASKS["brats2023"])                    # the same values, another meaning
    assert "'edema': 1" in message
    assert "2 oedema" in message
    assert "msd_brain does" in message


NNUNET_REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}
"""As nnU-Net's documentation/region_based_training.md has it: there 1 is oedema, 2 necrosis, 3 what enhances."""


def test_regions_of_nnunet_tell_which_value_is_which_class(nnunet):
    folder = nnunet(labels=NNUNET_REGIONS, regions_class_order=[1, 2, 3])
    assert "cases.task_of(source, task)" in refusal(folder)                # in which 1 is necrosis and 4 enhances
    task = task_of(folder, BRATS)
    assert task.labels == {"background": (0,), "necrosis": (2,), "oedema": (1,), "enhancing": (3,)}
    assert (task.class_names, task.regions, task.train_on) == (BRATS.class_names, BRATS.regions, "regions")
    assert [case.id for case in find_cases(folder, task)] == ["A", "B_1"]
    # nnU-Net: output[region > 0.5] = value, one region after the other
    inside = np.array([[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]])
    painted = np.zeros(4, int)
    for mask, value in zip(inside, [1, 2, 3], strict=True):
        painted[mask > 0] = value
    np.testing.assert_array_equal(task.decode(task.answers.classes_of(inside.astype(float))), painted)


def test_values_that_lie_in_the_same_regions_are_one_class_and_the_painted_one_is_written(nnunet):
    scar = Task("scar", ("t1", "t2"), {"background": 0, "border": 1, "dense": 2},
                {"all": ["border", "dense"], "dense": ["dense"]})
    folder = nnunet(labels={"background": 0, "ALL": [1, 2, 3, 4], "Dense": [3, 2], "ignore": 9},
                    regions_class_order=[4, 3])
    task = task_of(folder, scar)
    assert (task.labels, task.ignore) == ({"background": (0,), "border": (4, 1), "dense": (3, 2)}, 9)
    assert task.decode(np.array([0, 1, 2])).tolist() == [0, 4, 3]
    assert len(find_cases(folder, task)) == 2


def test_regions_of_other_names_are_refused_with_the_task_that_is_to_be_written(nnunet):
    folder = nnunet(labels={"background": 0, "kidney and masses": [1, 2, 3], "masses": [2, 3], "tumor": 2},
                    regions_class_order=[1, 3, 2])
    assert task_of(folder, BRATS) is BRATS
    message = refusal(folder)
    told = json.loads(message[message.index("with {") + 5:message.rindex("}") + 1])
    assert told == {
        "labels": {"background": 0, "rest of kidney and masses": [1], "tumor": [2], "rest of masses": [3]},
        "regions": {"kidney and masses": ["rest of kidney and masses", "tumor", "rest of masses"],
                    "masses": ["tumor", "rest of masses"], "tumor": ["tumor"]}, "train_on": "regions"}
    task = Task("kidney", ("t1", "t2"), **told)
    assert len(find_cases(folder, task)) == 2
    assert task_of(folder, task) == task
    wrong = nnunet(labels=NNUNET_REGIONS | {"tumor core": ["2"]})
    assert "several for each region" in refusal(wrong)


def test_other_faults_of_nnunet_are_named(nnunet, touch):
    assert "'T7'" in refusal(nnunet(channels=("T7", "T2")))
    assert "expected one" in refusal(nnunet(channels=("T1", "t1n")))
    assert "file_ending '.png'" in refusal(nnunet(file_ending=".png"))
    folder = nnunet()
    touch("imagesTr/A.nii.gz", "imagesTr/A_0007.nii.gz")
    message = refusal(folder)
    assert "2 problems" in message
    assert "A_0007.nii.gz" in message
    (folder / "dataset.json").write_text('{"labels": {"0": "background"}}')
    assert "expected channel_names" in refusal(folder)
    (folder / "dataset.json").write_text("{")
    assert "no JSON dictionary" in refusal(folder)


def test_a_layout_without_parts_refuses_to_give_one(touch):
    with pytest.raises(ValueError, match="'training'"):
        find_cases(touch("A/A_t1.nii.gz"), BRATS, part="test")


@pytest.mark.parametrize(("name", "tab"), [("cases.csv", ","), ("cases.TSV", "\t")])
def test_a_table_is_read_with_synonyms_empty_cells_and_other_columns(touch, table, name, tab):
    folder = touch("scans/a b.nii.gz", "scans/flair.nii.gz", "seg.nii", "t1.nii")
    path = table(*(row.replace("|", tab) for row in (
        "\ufeffCase|T1c|t2f|Label|patient|age", "006||t1.nii|||", "|||||",
        f"007|scans/a b.nii.gz|{folder}/scans/flair.nii.gz|seg.nii|P1|61")), name=name)
    cases = find_cases(path, BRATS)
    assert held(cases) == {"006": (["flair"], False), "007": (["t1ce", "flair"], True)}
    assert [case.patient for case in cases] == [None, "P1"]
    assert cases[1].images["t1ce"] == folder / "scans/a b.nii.gz"


def test_one_file_may_stand_for_two_modalities_until_the_audit(touch, table):
    touch("x.nii")
    assert held(find_cases(table("id,t1,t2", "A,x.nii,x.nii"), BRATS)) == {"A": (["t1", "t2"], False)}


def test_all_faults_of_a_table_are_reported_together(touch, table):
    touch("x.nii", "y.nii")
    message = refusal(table("case,t1,t7,label", "A,gone.nii,,", "B,,x.nii,", "C,x.nii", "../../x,y.nii,,",
                            ",y.nii,,"))
    assert "5 problems" in message
    assert "case A, file" in message
    assert "gone.nii: the file does not exist" in message
    assert "'t7'" in message
    assert "found 2 cells" in message
    assert "'../../x'" in message
    assert "in row 6" in message


def test_one_case_under_two_ids_is_refused(touch, table):
    touch("x.nii")
    assert "the cases 'A' and 'B' share this file" in refusal(table("case,t1", "A,x.nii", "B,./x.nii"))


def test_frames_of_one_file_are_cells_of_a_table(touch, table):
    folder = touch("x#1.nii.gz", "y.nii")
    cases = find_cases(table("case,t1,flair,label", "A,x#1.nii.gz#2,x#1.nii.gz#0,y.nii"), BRATS)
    assert cases[0].images == {"t1": Frame(folder / "x#1.nii.gz", 2), "flair": Frame(folder / "x#1.nii.gz", 0)}
    write_table(cases, folder / "again.csv", BRATS)
    assert find_cases(folder / "again.csv", BRATS) == cases
    assert "gone.nii: the file does not exist" in refusal(table("case,t1", "A,gone.nii#1"))


def test_cases_may_share_a_file_but_no_frame_of_it(touch, table):
    touch("x.nii")
    assert len(find_cases(table("case,t1", "A,x.nii#0", "B,x.nii#1"), BRATS)) == 2
    message = refusal(table("case,t1,t2", "A,x.nii#0,", "B,x.nii#1,./x.nii#0"))
    assert "the cases 'A' and 'B' share this file" in message
    assert "case B, file" in message


def test_a_table_that_cannot_be_understood_says_why(table, touch):
    touch("x.nii")
    assert "called 'case'" in refusal(table("name;t1", "A;x.nii"))
    assert "expected each once" in refusal(table("case,t1,T1", "A,x.nii,x.nii"))
    assert "expected one" in refusal(table("case,t1ce,t1c", "A,x.nii,x.nii"))
    assert "no rows" in refusal(table("case,t1"))
    path = table("case,t1")
    path.write_bytes(b"case,t1\nM\x81ller,x.nii")
    assert "UTF-8" in refusal(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_is_read_however_windows_saved_it(touch, tmp_path, delimiter, encoding):
    folder = touch("x.nii", "y.nii")
    rows = [["case", "t1", "flair", "age"], ["001", "x.nii", "", "61,5" if delimiter != "," else "61.5"],
            ["Müller, A; 1e5", " y.nii ", "", ""], ["", "", "", ""]]
    text = "\r\n".join(delimiter.join(f'"{cell}"' if "A;" in cell else cell for cell in row) for row in rows)
    (tmp_path / "cases.csv").write_bytes(text.encode(encoding))
    cases = find_cases(tmp_path / "cases.csv", BRATS)
    assert [(case.id, dict(case.images)) for case in cases] == [
        ("001", {"t1": folder / "x.nii"}), ("Müller, A; 1e5", {"t1": folder / "y.nii"})]


@pytest.mark.parametrize("id", ["001", "1e5", "NA", "null", "TRUE", "-", "007.0", "a,b;c", " leads", "trails ", 'a"b"',
                                "no"])
def test_a_case_keeps_its_name_and_its_patient_in_a_table(touch, id):
    folder = touch("x.nii")
    case = Case(id, {"t1": folder / "x.nii"}, patient=f"{id}0")
    write_table([case], folder / "cases.csv", BRATS)
    assert find_cases(folder / "cases.csv", BRATS) == [case]


def test_the_table_of_found_cases_finds_them_again_with_their_patients(touch, tmp_path):
    folder = touch("data/A/A_t1.nii.gz", "data/A/A_seg.nii.gz", "data/B, C/flair.nii.gz")
    found = [Case(case.id, case.images, case.label, patient) for case, patient in
             zip(find_cases(folder / "data", BRATS), ("P1", None), strict=True)]
    write_table(found, tmp_path / "found.csv", BRATS)
    write_table(found, str(tmp_path / "found.csv"), BRATS)
    assert find_cases(tmp_path / "found.csv", BRATS) == found


def test_a_table_of_images_in_memory_is_refused_before_it_is_written(touch):
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    with pytest.raises(DataError, match="2 problems") as caught:
        write_table([Case("A", {"t1": image}), Case("B", {"t1": image})], touch() / "cases.csv", BRATS)
    assert "write_cases" in caught.value.errors[0].remedy
    assert not [*touch().iterdir()]


def test_a_dataset_json_by_hand_is_read_with_its_mark_and_named_by_line(nnunet, tmp_path):
    path = nnunet() / "dataset.json"
    good = path.read_text()
    path.write_text("\ufeff" + good, encoding="utf-8")
    assert len(find_cases(tmp_path, BRATS)) == 2
    for content, said in ((good[:-1] + ",}", "line 1, column"), (good.replace('"T2"', '"T2" # x'), "line 1, column"),
                          (good.replace('{"0": "T1", "1": "T2"}', '["T1", "T2"]'), "'channel_names': 'list'"),
                          (good.replace('"T2"', "T2"), "line 1, column")):
        path.write_text(content)
        with pytest.raises(DataError) as caught:
            find_cases(tmp_path, BRATS)
        assert (caught.value.path, len(caught.value.errors), bool(caught.value.remedy)) == (path, 1, True)
        assert said in caught.value.problem


@pytest.mark.parametrize("name", ["patient", "Patient ID", "subject", "participant_id"])
def test_a_patient_is_one_whatever_a_table_calls_its_column(touch, table, name):
    touch("a.nii", "b.nii", "c.nii")
    cases = find_cases(table(f"case,{name},age,t1", "A,p,3,a.nii", "B,p,4,b.nii", "C,q,4,c.nii"), BRATS)
    assert [case.patient for case in cases] == ["p", "p", "q"]


def test_a_patient_is_text_however_it_was_written_down(tmp_path):
    write_cases(phantoms.liver_phases(4, size=8), tmp_path / "data")
    ids = sorted(path.name for path in (tmp_path / "data").iterdir() if path.is_dir())
    for id, patient in zip(ids, ("7", '"7"', "null", '["x"]'), strict=True):
        (tmp_path / "data" / id / "case.json").write_text(f'{{"patient": {patient}}}')
    with pytest.raises(DataError) as refused:
        find_cases(tmp_path / "data", TASKS["liver_phases"])
    assert (refused.value.case, Path(refused.value.path).name) == (ids[3], "case.json")
    (tmp_path / "data" / ids[3] / "case.json").write_text('{"patient": "p",}')
    with pytest.raises(DataError, match="comma"):       # or the patient would be nobody's
        find_cases(tmp_path / "data", TASKS["liver_phases"])
    (tmp_path / "data" / ids[3] / "case.json").unlink()
    assert [case.patient for case in find_cases(tmp_path / "data", TASKS["liver_phases"])][:2] == ["7", "7"]
    assert Case("a", patient=7).patient == "7"
    assert Case("a", {"venous": "a.nii.gz"}).images == {"venous": Path("a.nii.gz")}


NFC, NFD = "M\u00fcller", "Mu\u0308ller"


def test_one_patient_is_one_however_its_name_is_written(touch, table):
    """macOS writes u and two dots where others write one letter; both look the same and are one patient."""
    touch(f"one/{NFD}_t1.nii.gz", "two/t1.nii.gz")
    cases = find_cases(table("case,patient,t1", f"{NFC}-1,{NFC},one/{NFD}_t1.nii.gz",
                             f"{NFD}-2,{NFD},two/t1.nii.gz"), BRATS)
    assert [(case.id, case.patient) for case in cases] == [(f"{NFC}-1", NFC), (f"{NFC}-2", NFC)]
    assert cases[0].images["t1"].name == f"{NFD}_t1.nii.gz"
    with pytest.raises(ValueError, match="found 1 patients"):
        kfold(cases, folds=2)
    assert select(cases, f"{NFD}-2") == [cases[1]]


@pytest.mark.parametrize("layout", ["folders", "bids", "nnunet"])
@pytest.mark.parametrize(("folder", "file"), [(NFC, NFD), (NFD, NFC), (NFD, NFD)])
def test_a_name_on_disk_is_matched_in_either_form_and_its_file_keeps_it(touch, layout, folder, file):
    names = {"folders": [f"{folder}/{file}_t1.nii.gz", f"{folder}/{folder}_seg.nii.gz"],
             "bids": [f"sub-{folder}/anat/sub-{file}_T1w.nii.gz",
                      f"derivatives/sub-{file}/anat/sub-{folder}_dseg.nii.gz"],
             "nnunet": [f"imagesTr/{folder}_0000.nii.gz", f"labelsTr/{file}.nii.gz"]}[layout]
    source = touch(*names)
    if layout == "nnunet":
        (source / "dataset.json").write_text(json.dumps({
            "channel_names": {"0": "T1"}, "labels": LABELS, "file_ending": ".nii.gz", "patients": {NFC: "p7"}}))
    (case,) = find_cases(source, BRATS)
    assert case.id == (f"sub-{NFC}" if layout == "bids" else NFC)
    assert case.patient == {"folders": None, "bids": f"sub-{NFC}", "nnunet": "p7"}[layout]
    assert (case.images["t1"], case.label) == tuple(source / name for name in names)


def test_two_folders_that_look_alike_are_one_case_twice(touch):
    source = touch(f"{NFC}/t1.nii.gz", f"{NFD}/t1.nii.gz")
    assert "belongs to two cases" in refusal(source)
