"""The paper's tables: figures by hand, the paper's order, what is published beside them."""

import pandas as pd
import pytest

from maml_toolkit.evaluation import compare, paper


def rows(method, present, values, region="tumour", fold=0, seed=0):
    """Dice in fraction and ASSD in voxels of cases a, b, …"""
    about = {"method": method, "run": "r", "fold": fold, "seed": seed, "policy": "", "present": present,
             "region": region, "empty": ""}
    return [{**about, "case": chr(97 + i), "metric": metric, "unit": unit, "value": one}
            for i, (dice, assd) in enumerate(values)
            for metric, unit, one in (("dice", "fraction", dice), ("assd", "voxel", assd))]


@pytest.fixture
def table():
    return pd.DataFrame([
        *rows("MAML", "arterial+venous", [(0.8, 1.0), (0.6, 3.0)]),
        *rows("MAML", "arterial", [(0.7, 2.0), (0.5, 4.0)]), *rows("MAML", "venous", [(0.8, 2.0), (0.5, 3.0)]),
        *rows("nnUNet", "arterial+venous", [(0.5, 2.0), (0.5, 2.0)]), *rows("own", "arterial+venous", [(0.1, 9.0)] * 2),
        *rows("nnUNet (arterial)", "arterial", [(0.3, 5.0), (0.3, 5.0)]),
        *rows("nnUNet (venous)", "venous", [(0.6, 4.0), (0.5, 4.0)])])


def test_table_1_is_mean_and_deviation_over_cases_in_the_papers_order(table):
    printed = paper.table_1(table)
    assert list(printed.frame["method"]) == ["nnUNet", "own", "MAML"]
    maml = printed.frame.iloc[-1]
    assert (maml["Dice (%)"], maml["ASSD (voxel)"]) == ("70.00±14.14", "2.00±1.41")
    assert maml["published Dice"] == "81.25±17.02"
    assert "2 cases" in printed.caption
    assert "1 fold x 1 seed" in printed.caption


def test_the_order_of_modalities_within_a_subset_is_irrelevant(table):
    turned = table.assign(present=["venous+arterial" if "+" in one and method == "MAML" else one
                                   for one, method in zip(table["present"], table["method"], strict=True)])
    assert paper.table_1(turned).frame.equals(paper.table_1(table).frame)
    pd.testing.assert_frame_equal(compare(turned, "nnUNet", by=()), compare(table, "nnUNet", by=()))


def test_runs_of_a_case_are_averaged_before_the_deviation(table):
    again = pd.DataFrame(rows("MAML", "arterial+venous", [(0.6, 1.0), (0.8, 3.0)], seed=1))
    maml = paper.table_1(pd.concat([table, again])).frame.iloc[-1]
    assert maml["Dice (%)"] == "70.00±0.00"


def test_answers_of_two_policies_or_of_two_runs_are_refused_by_name(table):
    t1ce = pd.DataFrame(rows("MAML", "t1ce", [(0.8, 1.0)], "ET"))
    for column, other in (("policy", "heads"), ("run", "second")):
        for make, one in ((paper.table_1, table), (lambda both: paper.table_2(both, ["arterial", "venous"]), table),
                          (lambda both: paper.table_3(both, "t1ce"), t1ce)):
            with pytest.raises(ValueError, match=f"(?s){column}.*'{other}'.*(MAML|nnUNet)"):
                make(pd.concat([one, one.assign(**{column: other})]))
    with pytest.raises(ValueError, match="method, present, fold, seed, case"):
        paper.table_1(pd.concat([table, table]))


def test_two_policies_under_names_of_their_own_stand_side_by_side(table):
    heads = table.assign(policy="heads", method=table["method"] + ", heads", value=table["value"] / 2)
    found = paper.table_1(pd.concat([table, heads])).frame.set_index("method")["Dice (%)"]
    assert (found["MAML"], found["MAML, heads"]) == ("70.00±14.14", "35.00±7.07")


def test_systems_that_were_trained_in_other_folds_and_seeds_are_told_apart(table):
    again = pd.DataFrame(rows("MAML", "arterial+venous", [(0.6, 1.0), (0.8, 3.0)], fold=1, seed=1))
    caption = paper.table_1(pd.concat([table, again])).caption
    assert "nnUNet: 1 fold x 1 seed" in caption
    assert "MAML: 2 of 2 x 2 folds and seeds" in caption
    unknown = paper.table_1(table.assign(fold=None, seed=None)).caption
    assert "1 fold x 1 seed" in unknown


def test_systems_that_answered_other_cases_are_told(table):
    fewer = table[(table["method"] != "own") | (table["case"] != "b")]
    assert "over 2 cases, each" in paper.table_1(table).caption
    assert "over 1 to 2 cases, not the same in every row" in paper.table_1(fewer).caption
    others = table.assign(case=table["case"].where(table["method"] != "own", table["case"] + "2"))
    assert "over 2 cases, not the same in every row" in paper.table_1(others).caption
    fold = pd.DataFrame([*rows("MAML", "t1ce", [(0.8, 1.0), (0.6, 1.0)], "ET"),
                         *rows("HeMIS", "t1ce", [(0.4, 1.0)], "ET")])
    assert "1 to 2 cases" in paper.table_3(fold, "t1ce").caption


def test_table_2_has_the_gap_between_the_phases(table):
    frame = paper.table_2(table, ["arterial", "venous"]).frame.set_index("method")
    assert frame.loc["nnUNet", "arterial Dice (%)"] == "30.00±0.00"
    assert frame.loc["MAML", "venous Dice (%)"] == "65.00±21.21"
    assert frame.loc["nnUNet", "gap in Dice"].startswith("+25.0 [")      # 0.3 and 0.2, chosen on the other case
    assert frame.loc["nnUNet", "gap in Dice"].endswith(", cases only")
    assert frame.loc["MAML", "gap in Dice"].startswith("+0.0 [")          # the case without a gap chooses for the other
    found = compare(paper.single_modality(table, ["arterial", "venous"]), "MAML").set_index("present")
    assert found.loc["arterial", "difference"] == pytest.approx(0.3)


def test_table_3_is_mean_and_deviation_over_folds():
    table = pd.DataFrame([*rows("MAML", "t1ce", [(0.8, 1.0), (0.6, 1.0)], "ET", fold=0),
                          *rows("MAML", "t1ce", [(0.5, 1.0)], "ET", fold=1),
                          *rows("HeMIS", "t1ce", [(0.4, 1.0)], "ET")])
    printed = paper.table_3(table, "t1ce")
    assert list(printed.frame["method"]) == ["HeMIS", "MAML"]
    assert printed.frame.iloc[1]["ET Dice (%)"] == "60.00±14.14"    # folds 70 and 50
    assert printed.frame.iloc[0]["published ET"] == "60.8"
    assert "2 folds" in printed.caption


def test_table_3_of_a_network_whose_fold_and_seed_nobody_named():
    table = pd.DataFrame([*rows("MAML", "t1ce", [(0.8, 1.0), (0.6, 1.0)], "ET", fold=None, seed=None)])
    printed = paper.table_3(table, "t1ce")
    assert (printed.frame["ET Dice (%)"].tolist(), "over 1 seed of" in printed.caption) == (["70.00"], True)


def test_tables_without_their_rows_are_refused(table):
    with pytest.raises(ValueError, match="subsets='each'"):
        paper.table_2(table, ["t1", "t2"])
    with pytest.raises(ValueError, match="subsets='each'"):
        paper.table_3(table, "t1ce")


def test_a_table_is_written_in_four_forms_with_its_caption(table, tmp_path):
    found = compare(table[table["present"] == "arterial+venous"], "MAML", by=("region",))
    printed = paper.differences(found)
    printed.save(tmp_path / "table.1")
    assert {path.name for path in tmp_path.iterdir()} == {f"table.1.{one}" for one in ("txt", "html", "tex", "csv")}
    page = (tmp_path / "table.1.html").read_text(encoding="utf-8")
    assert "<caption" in page
    assert "MAML − nnUNet" in page
    assert r"95 \%" in (tmp_path / "table.1.tex").read_text(encoding="utf-8")
    text = (tmp_path / "table.1.txt").read_text(encoding="utf-8")
    assert "+20.0 [" in text
    assert "1 training of each side" in " ".join(text.split())
    assert len(pd.read_csv(tmp_path / "table.1.csv")) == 2


def test_markup_in_a_name_stays_text(table):
    printed = paper.table_1(table.assign(method=[name.replace("own", "<b>&_%") for name in table["method"]]))
    assert "&lt;b&gt;&amp;_%" in printed.html()
    assert r"\textless{}b\textgreater{}\&\_\%" in printed.latex()


def test_differences_say_on_how_many_trainings_they_rest_and_what_they_hold(table):
    one = table[(table["present"] == "arterial+venous") & (table["method"] != "own")]
    single = paper.differences(compare(one, "MAML")).frame.iloc[0]
    assert (single["trainings"], single["interval"]) == (1, "cases only")
    assert {single["p (Holm)"], single["Wilcoxon"], single["over trainings"]} == {"–"}
    luck = one["value"] + 0.05 * (one["method"] == "MAML")
    printed = paper.differences(compare(pd.concat([one, one.assign(seed=1, value=luck)]), "MAML"))
    several = printed.frame.iloc[0]
    assert (several["trainings"], several["interval"]) == (2, "trainings and cases")
    assert several["difference [95 %]"].startswith("+22.5 [")
    assert several["over trainings"] == "[-9.3, +54.3]"        # 20 and 25: 22.5 ± 12.71 * 2.5
    assert "–" not in several[["p (Holm)", "Wilcoxon"]].tolist()
    assert "2 trainings of each side" in printed.caption
