"""The table over all subsets: means by hand, the literature's order, nothing hidden, four forms that hold."""

import dataclasses
import re
import unicodedata
from xml.etree import ElementTree

import pandas as pd
import pytest

from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.evaluation.subset_table import PUBLISHED, subset_table

LIVER, BRAIN = TASKS["liver_phases"], TASKS["brats2021"]
THREE = Task("three", ("a", "b", "c"), {"background": 0, "lesion": 1})
NASTY = r"<b>50%_&#$^~\x{y}</b>"


def rows(present, values, region="tumour", method="maml", seed=0, **other):
    """Dice of cases p, q, … as fractions."""
    about = {"method": method, "run": "r", "fold": 0, "seed": seed, "policy": "", "present": present,
             "region": region, "metric": "dice", "unit": "fraction", "empty": ""} | other
    return [{**about, "case": chr(112 + i), "value": value} for i, value in enumerate(values)]


@pytest.fixture
def two():
    return pd.DataFrame([*rows("arterial+venous", [0.9, 0.7]), *rows("arterial", [0.5, 0.3]),
                         *rows("venous", [0.8, 0.4])])


@pytest.fixture
def three():
    """Subset by subset, the value of its only case is 0.1, 0.2, … in the order in which they are printed."""
    order = ("c", "b", "a", "b+c", "a+c", "a+b", "a+b+c")
    return pd.DataFrame([row for i, present in enumerate(order, 1) for row in rows(present, [i / 10], "lesion")])


@pytest.fixture
def brain(two):
    regions = [two.assign(region=region, present=two["present"].str.replace("arterial", "t1").str.replace(
        "venous", "flair")) for region in ("WT", "TC", "ET", "ET ≥ 500 mm³")]
    return pd.concat(regions)


def lines_of(text):
    """Lines of the table, without its caption."""
    return text.split("\n\n")[0].splitlines()


def test_a_value_is_the_mean_over_cases_and_the_last_row_the_plain_mean_over_subsets(two):
    printed = subset_table(two, LIVER)
    assert list(printed.frame.columns) == ["arterial", "venous", "tumour"]
    assert printed.frame.to_numpy().tolist() == [
        ["○", "●", "60.0"], ["●", "○", "40.0"], ["●", "●", "80.0"], ["", "", "60.0"]]
    assert list(printed.frame.index) == ["venous", "arterial", "arterial+venous", "average"]
    assert printed.missing == ()
    assert "all 3 subsets" in printed.caption
    assert "mean over 2 cases." in printed.caption


def test_subsets_are_sorted_by_size_and_the_last_modality_leads(three):
    frame = subset_table(three, THREE).frame
    assert list(frame["lesion"]) == ["10.0", "20.0", "30.0", "40.0", "50.0", "60.0", "70.0", "40.0"]
    assert ["".join(marks) for marks in frame[["a", "b", "c"]].to_numpy()][:-1] == [
        "○○●", "○●○", "●○○", "○●●", "●○●", "●●○", "●●●"]


def test_the_order_of_rows_and_of_names_in_a_subset_is_irrelevant(three):
    expected = subset_table(three, THREE)
    turned = three.sample(frac=1, random_state=0)
    turned["present"] = ["+".join(reversed(one.split("+"))) for one in turned["present"]]
    found = subset_table(turned, THREE)
    assert found.text() == expected.text()


def test_the_runs_of_a_case_are_averaged_before_the_cases(two):
    again = pd.DataFrame(rows("arterial", [0.9], seed=1))       # case p: (50 + 90) / 2 = 70, case q: 30
    printed = subset_table(pd.concat([two, again]), LIVER)
    assert printed.frame.loc["arterial", "tumour"] == "50.0"    # over all three rows it were 56.7
    assert "each the mean of its runs (2 in all)" in printed.caption


def test_methods_of_one_run_each_are_no_mean_of_runs(two):
    other = two.assign(method="late", run="s")
    assert "runs" not in subset_table(pd.concat([two, other]), LIVER).caption
    again = other.assign(seed=1, value=0.5)
    caption = subset_table(pd.concat([two, other, again]), LIVER).caption
    assert "the mean of its runs (1 to 2 in all for each)" in caption


@pytest.mark.parametrize(("metric", "unit", "rule"), [
    ("dice", "fraction", "Dice 100 where both are, 0 where one is"),
    ("nsd@2", "fraction", "NSD 100 where both are, 0 where one is"),
    ("hd95", "mm", "0 where both are, else the diagonal"), ("lesion_hd95", "mm", "")])
def test_the_caption_says_what_an_empty_mask_has_by_this_metric(two, metric, unit, rule):
    """The diagonal of the image is no share of a surface, and lesions have 374 mm."""
    caption = subset_table(two.assign(metric=metric, unit=unit, empty="truth"), LIVER, metric=metric).caption
    said = caption.partition("6 of 6 values")[2]
    assert said.startswith(f"; {rule})" if rule else ")")


def test_a_missing_subset_is_reported_and_not_averaged(three):
    printed = subset_table(three[three["present"] != "a+c"], THREE)
    assert printed.missing == ("a+c",)
    assert printed.frame.loc["average", "lesion"] == "38.3"     # (280 - 50) / 6
    assert "6 of 7; missing: a+c" in printed.caption


def test_a_subset_that_fewer_cases_answered_says_so(two):
    printed = subset_table(two[(two["case"] == "p") | (two["present"] != "venous")], LIVER)
    assert printed.frame.loc["venous", "tumour"] == "80.0"
    assert "2 cases, 1 to 2 for a single number" in printed.caption


def test_empty_masks_are_counted_in_the_caption(two):
    two.loc[two["case"] == "q", "empty"] = "both"
    two.loc[two["case"] == "p", "empty"] = None     # as a CSV file may give it back
    assert "In 1 of 2 cases a mask was empty, in ground truth, prediction or both (3 of 6 values" in subset_table(
        two, LIVER).caption


def test_methods_and_policies_stand_side_by_side_unless_one_is_chosen(two):
    late = pd.DataFrame([*rows("arterial", [0.2, 0.4], method="late"), *rows("venous", [0.1], policy="mean")])
    table = pd.concat([two, late])
    printed = subset_table(table, LIVER)
    assert list(printed.frame.columns) == [("", "arterial"), ("", "venous"), ("maml", "tumour"), ("late", "tumour"),
                                           ("maml / mean", "tumour")]
    assert printed.frame["late", "tumour"].tolist() == ["–", "30.0", "–", "30.0"]
    assert printed.missing == ("venous", "arterial", "arterial+venous")
    assert "3 of 3 for maml, 1 of 3 for late, 1 of 3 for maml / mean" in printed.caption
    assert subset_table(table, LIVER, method="maml", policy="").text() == subset_table(two, LIVER).text()
    assert subset_table(table, LIVER, policy="mean").frame.loc["average", "tumour"] == "10.0"


def test_regions_stand_in_the_order_in_which_they_appear(brain):
    frame = subset_table(brain, BRAIN, modalities=["flair", "t1"]).frame
    assert list(frame.columns) == ["t1", "flair", "WT", "TC", "ET", "ET ≥ 500 mm³"]


def test_published_averages_stand_below_with_their_protocol(brain):
    printed = subset_table(brain, BRAIN, published=True)
    assert len(printed.missing) == 12
    assert list(printed.frame.index[-6:]) == [f"{name} (published)" for name in PUBLISHED]
    assert printed.frame.loc["mmFormer (published)"].tolist() == [""] * 4 + ["86.38", "75.82", "59.12", ""]
    for words in ("199", "ET = 3", "have a Dice of 1", "80×80×80", "15 subsets", "cannot be compared with them"):
        assert words in printed.caption


def test_published_averages_have_columns_of_their_own_beside_several_methods(brain):
    frame = subset_table(pd.concat([brain, brain.assign(method="late")]), BRAIN, published=True).frame
    assert frame["published, BraTS 2018"].loc["HeMIS (published)"].tolist() == ["78.6", "59.7", "48.1"]
    assert set(frame.loc["HeMIS (published)", ["maml", "late"]]) == {""}
    assert set(frame["published, BraTS 2018"].loc["average"]) == {""}


def test_published_averages_stand_beside_many_cases_only_unless_they_are_asked_for(brain):
    assert not any("published" in name for name in subset_table(brain, BRAIN).frame.index)
    many = pd.concat([brain.assign(case=brain["case"] + str(copy)) for copy in range(20)])
    assert "HeMIS (published)" in subset_table(many, BRAIN).frame.index


def test_nothing_is_published_for_other_regions_and_metrics_or_when_not_wanted(brain, two):
    distances = brain.assign(metric="assd", unit="mm")
    for printed in (subset_table(two, LIVER), subset_table(brain, BRAIN, published=False),
                    subset_table(distances, BRAIN, metric="assd")):
        assert printed.frame.index[-1] == "average"
        assert "ublished" not in printed.caption


def test_distances_are_in_mm_where_the_table_has_mm(two):
    table = pd.concat([two, two.assign(metric="assd", unit="voxel", value=9.0),
                       two.assign(metric="assd", unit="mm", value=2.0)])
    printed = subset_table(table, LIVER, metric="assd")
    assert printed.frame.loc["average", "tumour"] == "2.0"
    assert printed.caption.startswith("ASSD in mm of maml")


def test_fewer_modalities_than_the_task_has_leave_other_subsets_out(three):
    printed = subset_table(three, THREE, modalities=("c", "a"))
    assert list(printed.frame.index) == ["c", "a", "a+c", "average"]
    assert printed.modalities == ("a", "c")
    assert printed.missing == ()


@pytest.mark.parametrize(("change", "options", "message"), [
    ({}, {"method": "mamI"}, "method='mamI'.*maml"),
    ({}, {"policy": "mean"}, "policy='mean'"),
    ({}, {"metric": "hd95"}, "'hd95'.*'dice', 'fraction'"),
    ({}, {"modalities": ["arterial", "t9"]}, "t9.* modalities.* arterial, venous"),
    ({"present": "t1+arterial"}, {}, "t1.* subsets"),
    ({"present": "venous"}, {"modalities": ["arterial"]}, "arterial.* venous"),
    ({"case": "p"}, {}, "3 .*case, subset, region"),
])
def test_what_cannot_be_printed_is_refused(two, change, options, message):
    with pytest.raises(ValueError, match=message):
        subset_table(two.assign(**change), LIVER, **options)


def test_a_table_without_rows_or_columns_is_refused(two):
    with pytest.raises(ValueError, match="evaluate"):
        subset_table(two[:0], LIVER)
    with pytest.raises(ValueError, match="metric"):
        subset_table(two.drop(columns="metric"), LIVER)


@pytest.fixture
def grouped(brain):
    methods = ("maml", NASTY, "両方の方法、日本語の長い名前")
    return subset_table(pd.concat([brain.assign(method=name) for name in methods]), BRAIN, published=True)


@pytest.fixture
def plain(brain):
    return subset_table(brain.assign(method=NASTY), BRAIN, published=True)


@pytest.fixture(params=["plain", "grouped"])
def printed(request):
    return request.getfixturevalue(request.param)


def test_all_lines_of_the_text_are_equally_wide(printed):
    lines = lines_of(printed.text())
    assert len({sum(1 + (unicodedata.east_asian_width(one) in "WF") for one in line) for line in lines}) == 1
    assert all(len(line) <= 72 for line in printed.text().split("\n\n")[1].splitlines()) or len(lines[0]) > 72


def test_a_mark_stands_under_its_modality(plain):
    head, _, first = lines_of(plain.text())[:3]
    assert first[head.index("flair"):][:5].strip() == "●"
    assert first[:head.index("t1") + 2].strip() == "○"


def test_html_is_well_formed_and_every_row_spans_all_columns(printed):
    table = ElementTree.fromstring(printed.html())
    spans = {sum(int(cell.get("colspan", 1)) for cell in row) for row in table.iter("tr")}
    assert spans == {printed.frame.shape[1]}
    assert [one.tag for one in table] == ["caption", "thead", "tbody"]
    assert table.find("caption").text == printed.caption
    assert NASTY in printed.caption
    assert "<b>" not in printed.html()


def test_latex_needs_no_more_than_booktabs(printed):
    source = printed.latex()
    known = {"begin", "end", "centering", "caption", "toprule", "midrule", "bottomrule", "cmidrule", "multicolumn",
             "bullet", "circ", "geq", "times", "textless", "textgreater", "textbackslash", "textasciitilde",
             "textasciicircum"}
    assert set(re.findall(r"\\([A-Za-z]+)", source)) <= known
    bare = re.sub(r"\\[{}%$#&_\\]", "", source)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[%#~_|<>●○≥³×–]", bare)
    assert r"\textless{}b\textgreater{}50\%\_\&\#\$\textasciicircum{}\textasciitilde{}\textbackslash{}x\{y\}" in source


def test_every_latex_row_fills_all_columns(printed):
    columns = re.search(r"\\begin\{tabular\}\{(c+r+)\}", printed.latex())[1]
    table = [line for line in printed.latex().splitlines() if line.endswith(r" \\")]
    for line in table:
        cells = re.split(r"(?<!\\)&", line)
        spans = [int(one[1]) if (one := re.match(r"\s*\\multicolumn\{(\d+)\}", cell)) else 1 for cell in cells]
        assert sum(spans) == len(columns) == printed.frame.shape[1]
    assert len(table) == len(printed.frame) + printed.frame.columns.nlevels


def test_a_table_is_saved_in_four_forms(two, tmp_path):
    printed = subset_table(pd.concat([two, two[:2].assign(method="late")]), LIVER)
    printed.save(tmp_path / "table.1")
    assert {path.name for path in tmp_path.iterdir()} == {f"table.1.{one}" for one in ("txt", "html", "tex", "csv")}
    for ending, content in (("txt", printed.text()), ("html", printed.html()), ("tex", printed.latex())):
        written = (tmp_path / f"table.1.{ending}").read_text(encoding="utf-8")
        assert written.endswith(content + "\n")
        assert (written == content + "\n") == (ending != "html")
    found = pd.read_csv(tmp_path / "table.1.csv", index_col="subset")
    assert list(found) == ["arterial", "venous", "maml tumour", "late tumour"]
    assert found["maml tumour"].tolist() == [60.0, 40.0, 80.0, 60.0]
    assert found["late tumour"].isna().tolist() == [True, True, False, False]


def test_a_printed_table_cannot_be_changed(two):
    with pytest.raises(dataclasses.FrozenInstanceError):
        subset_table(two, LIVER).caption = ""
