"""Every cell of a table comes back as it was written, and what Windows makes of a table is read."""

import math

import numpy as np
import pandas as pd
import pytest

from maml_toolkit.evaluation.table import read_table
from maml_toolkit.prediction.runs import Run
from maml_toolkit.system import tables
from maml_toolkit.system.errors import DataError

WORDS = ["001", "1e5", "NA", "null", "TRUE", "-", "007.0", "no", "nan", "None", "a,b", "a;b", "a\tb", " leads",
         "trails ", 'a "b"', '"', "", "=1+1", "two\nlines", "c\rd", "Müller", "1,5"]


@pytest.mark.parametrize("columns", [["case"], ["case", "value"]])
@pytest.mark.parametrize("for_excel", [False, True])
def test_every_cell_comes_back_as_it_was_written(tmp_path, columns, for_excel):
    values = np.random.default_rng(0).random(len(WORDS))
    table = pd.DataFrame({"case": WORDS, "value": values})[columns]
    tables.write(tmp_path / "t.csv", table, for_excel=for_excel)
    found = tables.read(tmp_path / "t.csv", ["value"])
    assert list(found) == columns
    assert found["case"].tolist() == WORDS
    assert "value" not in columns or found["value"].tolist() == values.tolist()     # to the last digit


def test_numbers_are_numbers_where_they_are_said_to_be_and_text_everywhere_else(tmp_path):
    rows = [{"case": "1", "seed": 3, "value": 0.5, "loss/a": 1}, {"case": "2", "value": math.inf, "loss/a": 1e-9}]
    tables.write(tmp_path / "t.csv", rows)
    found = tables.read(tmp_path / "t.csv", ["seed", "value", "loss/*"])
    assert found["case"].tolist() == ["1", "2"]
    assert found["seed"].tolist()[0] == 3
    assert math.isnan(found["seed"][1])
    assert found["value"].tolist() == [0.5, math.inf]
    assert found["loss/a"].tolist() == [1, 1e-9]
    assert tables.read(tmp_path / "t.csv")["value"].tolist() == ["0.5", "inf"]


def test_a_table_without_rows_keeps_its_columns(tmp_path):
    tables.write(tmp_path / "t.csv", [], ["case", "value"])
    found = tables.read(tmp_path / "t.csv", ["value"])
    assert list(found) == ["case", "value"]
    assert len(found) == 0
    assert found["value"].dtype == float


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_a_german_excel_saves_is_read(tmp_path, encoding, end):
    lines = ["Fall;Wert;Länge", "001;0,5;3", "Müller;-1,25e-3;", ";;", ""]
    (tmp_path / "t.csv").write_bytes(end.join(lines).encode(encoding))
    found = tables.read(tmp_path / "t.csv", ["Wert", "Länge"])
    assert found["Fall"].tolist() == ["001", "Müller"]
    assert found["Wert"].tolist() == [0.5, -0.00125]
    assert found["Länge"].tolist()[0] == 3


def test_empty_columns_at_the_right_end_are_left_out(tmp_path):
    (tmp_path / "t.csv").write_text("case;value;;\n001;0,5;;\n002;1;\n;;;\n")
    found = tables.read(tmp_path / "t.csv", ["value"])
    assert found.to_dict("list") == {"case": ["001", "002"], "value": [0.5, 1.0]}
    (tmp_path / "t.csv").write_text("case;value;;\n001;0,5;;odd\n")
    with pytest.raises(DataError, match="another length"):
        tables.read(tmp_path / "t.csv", ["value"])


def test_a_comma_in_a_number_between_commas_is_not_guessed(tmp_path):
    (tmp_path / "t.csv").write_text('case,value\n001,"1,234"\n')
    with pytest.raises(DataError, match="'1,234' in row 2"):
        tables.read(tmp_path / "t.csv", ["value"])


def test_a_name_in_another_encoding_comes_back(tmp_path):
    name = b"/data/f\xe4lle/Z\xfcrich.nii".decode("utf-8", "surrogateescape")
    tables.write(tmp_path / "t.csv", [{"case": "Zürich", "t1": name}])
    assert tables.read_rows(tmp_path / "t.csv") == (["case", "t1"], [["Zürich", name]])


def test_the_line_that_names_the_delimiter_is_no_row(tmp_path):
    (tmp_path / "t.csv").write_text("sep=|\na,b;c|d\n1|2\n")
    assert tables.read_rows(tmp_path / "t.csv") == (["a,b;c", "d"], [["1", "2"]])


def test_a_name_in_quotes_does_not_decide_about_the_delimiter(tmp_path):
    (tmp_path / "t.csv").write_text('"a, b, c, d";e\n"x, ""y""";1\n')
    assert tables.read_rows(tmp_path / "t.csv") == (["a, b, c, d", "e"], [['x, "y"', "1"]])


@pytest.mark.parametrize(("content", "named"), [
    (b"case,value\n001,0.5\n002,a half\n", "row 3"), (b"case,value\n001\n\n002,1,2\n", "2, 4"),
    (b"case,case\n001,1\n", "case"), (b"case\n\x81\x8d\n", "UTF-8"), (b"case\n\0\0\0\n", "UTF-8")])
def test_a_broken_table_is_refused_by_name(tmp_path, content, named):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        tables.read(tmp_path / "t.csv", ["value"])
    assert caught.value.path == tmp_path / "t.csv"
    assert caught.value.remedy
    assert named in caught.value.problem


def test_a_missing_table_and_a_folder_are_refused_by_name(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(DataError) as caught:
            tables.read(path)
        assert caught.value.path == path


def test_a_row_with_a_column_of_its_own_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="t7"):
        tables.write(tmp_path / "t.csv", [{"case": "1", "t7": "x"}], ["case"])
    assert not (tmp_path / "t.csv").exists()


def test_the_history_of_a_run_keeps_text_and_numbers_apart(tmp_path):
    assert len(Run(tmp_path).epochs()) == 0
    tables.write(Run(tmp_path).history, [{"epoch": 1, "stage": "1", "loss/total": 0.1, "validation/dice/NA": None}])
    (row,) = Run(tmp_path).epochs().to_dict("records")
    assert (row["epoch"], row["stage"], row["loss/total"]) == (1, "1", 0.1)
    assert math.isnan(row["validation/dice/NA"])


def test_a_value_that_is_missing_from_a_measured_table_is_told(tmp_path):
    rows = [{"case": str(n), "method": "m", "present": "a", "region": "WT", "metric": "dice", "unit": "fraction",
             "value": value} for n, value in enumerate((0.5, None, 0.1))]
    tables.write(tmp_path / "metrics.csv", rows)
    with pytest.raises(DataError) as refused:
        read_table(tmp_path / "metrics.csv")
    assert refused.value.case == "1"
