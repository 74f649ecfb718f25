"""Ids and paths stay the text that was typed or given, wherever a notebook says so; what cannot be is said."""

import json
from pathlib import Path

import nbformat
import pytest

from maml_toolkit.commands import jobs
from maml_toolkit.commands.kinds import fitted
from maml_toolkit.commands.parameters import as_words, options

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "benchmark.ipynb"
NOTEBOOKS = ("1-prepare", "2-train", "3-predict", "4-evaluate", "5-compare", BENCHMARK, "explorer")
IDS = ["001", "1e5", "no", "null", "NA", "TRUE", "-", "007.0", "12", "0x10", "1_000", "~", "2024-01-01", "#1", "a:b"]


def typed(notebook, name, text):
    """What a word after --name becomes, and that it stays so when the job is given it."""
    known = jobs.parameters_of(notebook)
    found = options([f"--{name}={text}"], known)
    assert jobs.check(notebook, found) == found
    return found[name]


@pytest.mark.parametrize(("notebook", "name"), [("2-train", "validation"), ("2-train", "training"),
                                                ("3-predict", "cases"), ("4-evaluate", "cases"), ("explorer", "cases")])
def test_ids_stay_text_however_they_are_listed(notebook, name):
    assert typed(notebook, name, f"[{', '.join(IDS)}]") == IDS
    assert typed(notebook, name, ",".join(IDS)) == IDS
    assert typed(notebook, name, json.dumps([*IDS, 'a, "b"', "[c]", "é"])) == [*IDS, 'a, "b"', "[c]", "é"]
    assert typed(notebook, name, "['a, b', 'it''s', \"c]\"]") == ["a, b", "it's", "c]"]
    for one in IDS:
        assert typed(notebook, name, one) == [one]
    assert typed(notebook, name, '"case 1"') == ["case 1"]
    assert typed(notebook, name, "[]") == []


@pytest.mark.parametrize(("notebook", "name"), [("1-prepare", "data"), ("1-prepare", "out"), ("2-train", "prepared"),
                                                ("2-train", "run"), ("3-predict", "out"), ("4-evaluate", "out"),
                                                ("5-compare", "prepared"), ("5-compare", "split"),
                                                ("3-predict", "shard")])
def test_a_path_stays_what_was_typed(notebook, name):
    for one in [*IDS, "2024", "[a]", "{b}", "my data"]:
        assert typed(notebook, name, one) == one


def test_numbers_given_from_python_become_ids_and_paths():
    given = jobs.check("2-train", {"validation": [12, 7], "training": "001", "prepared": 12, "run": Path("x")})
    assert given == {"validation": ["12", "7"], "training": ["001"], "prepared": "12", "run": "x"}
    assert jobs.check("5-compare", {"seeds": 3, "channels": (8, 16.0), "split": None}) == {
        "seeds": [3], "channels": [8, 16], "split": None}


@pytest.mark.parametrize(("notebook", "name", "text", "value"), [
    ("1-prepare", "spacing_mm", "1", [1]), ("1-prepare", "spacing_mm", "[1, 0.5, 3]", [1, 0.5, 3]),
    ("2-train", "channels", "8 16, 32", [8, 16, 32]), ("2-train", "patch_size", "null", None),
    ("5-compare", "seeds", "3", [3]), ("5-compare", "tables", "[]", []), ("4-evaluate", "subsets", "all", "all"),
    ("4-evaluate", "subsets", "[[t1, 2], [007]]", [["t1", "2"], ["007"]]), ("4-evaluate", "policies", "fused,heads",
                                                                        ["fused", "heads"]),
    ("4-evaluate", "smallest_mm3", "{ET: 500, 1: 2.5}", {"ET": 500, "1": 2.5}), ("3-predict", "present", "t1", ["t1"]),
    ("4-evaluate", "metrics", "dice,nsd@0.5 lesions@met", ["dice", "nsd@0.5", "lesions@met"]),
    ("3-predict", "run", "runs/a, b", "runs/a, b"), ("3-predict", "run", "[runs/a, 001]", ["runs/a", "001"]),
    ("3-predict", "drop_small", "{ET: 50}", {"ET": 50}),
    ("3-predict", "mirror", "true", True), ("4-evaluate", "mirror", "[0, 2]", [0, 2]),
    ("5-compare", "systems", '{"a": {"method": "maml"}}', {"a": {"method": "maml"}})])
def test_one_value_for_a_list_is_a_list_of_it(notebook, name, text, value):
    assert typed(notebook, name, text) == value


@pytest.mark.parametrize(("notebook", "name", "text"), [
    ("1-prepare", "spacing_mm", "fine"), ("2-train", "channels", "[8, x]"), ("2-train", "validation", "[a, [b]]"),
    ("2-train", "validation", "[a, b"), ("4-evaluate", "subsets", "[t1, t2]"), ("4-evaluate", "smallest_mm3", "500"),
    ("5-compare", "seeds", "1.5")])
def test_what_cannot_be_meant_is_said_before_anything_runs(notebook, name, text):
    with pytest.raises(ValueError, match=f"^--{name}: found .*, expected"):
        options([f"--{name}={text}"], jobs.parameters_of(notebook))


@pytest.mark.parametrize(("value", "kind"), [(1e5, "str"), (True, "str"), (None, "list[str]"), ([None], "list[str]"),
                                             ([True], "list[int]"), ("8", "list[int]"), ({"a": 1}, "list[str]"),
                                             ("a", "int"), (float("inf"), "int"), ([["a"], "b"], "list[list[str]]")])
def test_values_of_another_kind_are_refused(value, kind):
    with pytest.raises(ValueError, match="expected"):
        fitted(value, kind)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_every_default_is_of_its_kind_and_ids_and_paths_have_one(notebook):
    known = jobs.parameters_of(notebook)
    assert jobs.check(notebook, {one.name: one.value for one in known.values()}) == {
        one.name: one.value for one in known.values()}
    named = {"data", "out", "run", "prepared", "split", "cases", "training", "validation", "subsets"} & set(known)
    assert named
    assert [name for name in named if not known[name].kind] == []


def test_an_annotation_of_something_else_takes_what_it_is_given(tmp_path):
    source = ("a: Path = 1\nb: 'list[str]' = []\nc: list = []\nd: dict[str] = {}\n"
              "e: list[bool] = [True]\nf: int | Any = 1")
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "own.ipynb")
    known = jobs.parameters_of(tmp_path / "own.ipynb")
    assert {name: one.kind for name, one in known.items()} == {
        "a": "", "b": "", "c": "", "d": "", "e": "list[bool]", "f": ""}
    given = {"a": [1], "b": "x", "c": 3, "d": None, "e": False, "f": {}}
    with pytest.raises(ValueError, match=r"--e: .*False.*list\[bool\]"):
        jobs.check(tmp_path / "own.ipynb", given)
    assert jobs.check(tmp_path / "own.ipynb", given | {"e": [False]}) == given | {"e": [False]}


def test_parameters_go_through_a_command_line_unchanged():
    known = jobs.parameters_of("2-train")
    given = jobs.check("2-train", {"validation": [*IDS, "a, b"], "training": None, "prepared": "007",
                                   "augmentation": None, "run": "null"})
    assert options(as_words(given, known), known) == {
        name: value for name, value in given.items() if name != "training"}
