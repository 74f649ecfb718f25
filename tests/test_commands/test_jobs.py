"""Notebooks as jobs: looked up, checked before they run, run in this Python, recorded when they fail."""

import io
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from tiny_notebooks import text_of, write
from typer.testing import CliRunner

from maml_toolkit.__main__ import app, options, summary
from maml_toolkit.commands import jobs
from maml_toolkit.commands.notebooks import scores
from maml_toolkit.commands.parameters import Parameter, typed

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:papermill.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client.*"),
]

def test_a_job_is_found_by_its_path_its_name_and_its_short_name(here):
    path = write(here, "2-train")
    assert {jobs.find(name) for name in (path, "notebooks/2-train.ipynb", "2-train", "train")} == {path}


def test_the_notebooks_of_the_package_come_before_those_of_the_current_folder(here):
    write(here, "2-train")
    shipped = write(here / "site" / "maml_toolkit", "2-train")
    assert jobs.find("train") == shipped


def test_an_unknown_notebook_is_refused_with_the_nearest_name(here):
    write(here, "2-train")
    with pytest.raises(ValueError, match=r"'trian'.*'train'"):
        jobs.find("trian")


def test_parameters_are_read_with_their_defaults_and_comments(here):
    found = jobs.parameters_of(write(here, "2-train"))
    assert list(found) == ["run", "steps", "rates", "case", "loud"]
    assert found["steps"] == Parameter("steps", "3", "how many; a = b is no parameter", "int")
    assert found["rates"].value == [0.1, 0.2]
    assert found["rates"].help == "one a stage"


def test_an_unknown_parameter_is_refused_before_anything_runs(here):
    path = write(here, "2-train", "open('touched', 'w')")
    with pytest.raises(ValueError, match=r"'stepz'.*'steps'") as refused:
        jobs.run(path, parameters={"stepz": 1}, progress=False)
    assert "steps = 3" in str(refused.value)
    assert "loud" not in str(refused.value)
    assert sorted(file.name for file in here.iterdir()) == ["notebooks"]


def test_a_job_does_not_overwrite_its_own_notebook(here):
    path = write(here, "2-train")
    repaired = write(here, "2-train.unfinished")
    for source in (path, repaired):
        with pytest.raises(ValueError, match="overwritten"):
            jobs.run(source, path, progress=False)
    assert repaired.exists()


def test_a_closed_or_narrow_output_ends_no_job(here, monkeypatch):
    source = write(here, "3-predict", "print('José ≥ 1')")
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", narrow)
    jobs.run(source, "out/one.ipynb")
    assert narrow.buffer.getvalue() == b"Jos? ? 1\n"
    narrow.close()
    assert text_of(jobs.run(source, "out/two.ipynb")) == "José ≥ 1\n"


def test_a_folder_that_cannot_be_written_is_said_before_anything_runs(here):
    write(here, "2-train", "open('started', 'w')")
    (here / "file").write_text("")
    with pytest.raises(PermissionError, match="cannot be written"):
        jobs.run("train", parameters={"run": "file/run"}, progress=False)
    assert not (here / "started").exists()


def test_a_job_that_writes_a_table_leaves_its_notebook_beside_it(here):
    """As an evaluation of several runs, which has no run folder."""
    source = write(here, "4-evaluate", "open(out, 'w').write('a')", parameters="run = 'runs/x'\nout = None\n")
    executed = jobs.run(source, parameters={"run": ["a", "b"], "out": "tables/both.csv"}, progress=False)
    assert executed == here / "tables" / "4-evaluate.ipynb"
    assert (here / "tables" / "both.csv").read_text() == "a"


def test_a_prediction_into_another_folder_leaves_the_run_as_it_is(here):
    """Which may be a shared model, to be given away without pictures of patients; two data sets keep two notebooks."""
    source = write(here, "3-predict", "print(1)", parameters="run = 'runs/x'\nout = None\n")
    assert jobs.run(source, parameters={"out": "answers"}, progress=False) == here / "answers" / "3-predict.ipynb"
    assert not (here / "runs").exists()
    assert jobs.run(source, progress=False) == here / "runs" / "x" / "3-predict.ipynb"


def test_a_job_runs_in_this_python_with_its_parameters_beside_its_run(here, monkeypatch):
    """Braces in a folder's name and another Python behind the user's kernel must not matter."""
    kernel = here / "kernels" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text('{"argv": ["/bin/false"], "display_name": "another Python", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(kernel.parents[2]))
    folder = here / "odd {name}"
    source = write(folder, "2-train", "import os, sys",
                   "print(sys.executable, os.getcwd(), steps, rates, case)")
    parameters = {"steps": 5, "rates": (1e-4,), "case": Path("00006")}
    executed = jobs.run(source, parameters=parameters, cwd=folder, progress=False)
    assert executed == folder / "runs" / "tiny" / "2-train.ipynb"
    assert text_of(executed).split(maxsplit=1)[0] == sys.executable
    assert text_of(executed).endswith(f"{folder} 5 [0.0001] 00006\n")
    assert "widgets" not in nbformat.read(executed, 4).metadata


def test_a_failing_cell_is_named_in_short_and_what_ran_before_is_kept(here):
    source = write(here, "3-predict", "print('before')", "# why\nraise KeyError('flair')", "print('after')")
    with pytest.raises(jobs.JobError, match="KeyError: 'flair'") as failed:
        jobs.run(source, "out/done.ipynb", progress=False)
    assert "3-predict.ipynb: cell [3], `raise KeyError('flair')`, failed" in str(failed.value)
    assert len(str(failed.value).splitlines()) <= 4
    assert failed.value.executed == here / "out" / "done.unfinished.ipynb"
    assert text_of(failed.value.executed) == "before\n"


def test_a_job_that_fails_leaves_the_notebook_of_the_one_that_worked(here, capsys):
    source = write(here, "3-predict", "print(2 / steps)")
    executed = jobs.run(source, "out/done.ipynb")
    assert capsys.readouterr().out == text_of(executed) == "0.6666666666666666\n"
    with pytest.raises(jobs.JobError, match="ZeroDivisionError"):
        jobs.run(source, "out/done.ipynb", {"steps": 0})
    assert text_of(executed) == "0.6666666666666666\n"
    jobs.run(source, "out/done.ipynb", {"steps": 2})
    assert text_of(executed) == "1.0\n"
    assert nbformat.read(executed, 4).metadata.papermill.output_path == str(executed)
    assert [one.name for one in executed.parent.iterdir()] == ["done.ipynb"]


DRAWS = """from pathlib import Path
import matplotlib.pyplot as plt
done = Path("done.txt").exists()
Path("done.txt").touch()
print("found done" if done else "did it")""", "if not done:\n    plt.plot([1, steps])\n    plt.show()"


def pictures_of(executed: Path) -> list[str]:
    return [output["data"]["image/png"] for cell in nbformat.read(executed, 4).cells if cell.cell_type == "code"
            for output in cell.outputs if "image/png" in output.get("data", {})]


def test_a_finished_job_that_is_repeated_keeps_its_pictures_and_tells_what_it_did_now(here):
    source = write(here, "3-predict", *DRAWS)
    executed = jobs.run(source, progress=False)
    (first,) = pictures_of(executed)
    assert text_of(executed) == "did it\n"
    for _ in range(2):
        jobs.run(source, progress=False)
        assert pictures_of(executed) == [first]
        assert text_of(executed) == "found done\n"


@pytest.mark.parametrize("change", ["parameters", "code", "again"])
def test_pictures_of_something_else_are_not_kept(here, change):
    source = write(here, "3-predict", *DRAWS)
    executed = jobs.run(source, progress=False)
    (first,) = pictures_of(executed)
    if change == "code":
        write(here, "3-predict", *DRAWS, "pass")
    if change == "again":
        (here / "done.txt").unlink()
    jobs.run(source, parameters={"steps": 7} if change == "parameters" else {}, progress=False)
    assert pictures_of(executed) == ([first] if change == "again" else [])


def test_a_job_whose_record_somebody_damaged_or_took_away_meanwhile_ends_well(here):
    source = write(here, "3-predict", "from pathlib import Path\nfor one in Path('runs/tiny').glob('*'):\n    "
                                      "one.write_text('{')\nprint(1)")
    for _ in range(2):
        executed = jobs.run(source, progress=False)
        assert text_of(executed) == "1\n"
    assert [one.name for one in executed.parent.iterdir()] == ["3-predict.ipynb"]


def test_of_two_that_run_one_job_at_one_moment_both_end_well(here, monkeypatch):
    source, execute = write(here, "3-predict", "print(1)"), jobs._execute

    def overtaken(source, unfinished, *settings):
        execute(source, unfinished, *settings)
        jobs._finish(unfinished, here / "out" / "done.ipynb")

    monkeypatch.setattr(jobs, "_execute", overtaken)
    assert text_of(jobs.run(source, "out/done.ipynb", progress=False)) == "1\n"
    assert [one.name for one in (here / "out").iterdir()] == ["done.ipynb"]


@pytest.mark.parametrize(("text", "value"), [
    ("3", 3), ("-1", -1), ("0.5", 0.5), ("1e-4", 1e-4), ("1.", 1.0), ("true", True), ("null", None),
    ("no", "no"), ("00006", "00006"), ("[a, 2]", ["a", 2]), ("{t1: 1e-3}", {"t1": 1e-3}),
    ("2021-01-01", "2021-01-01"),
    ("runs/first", "runs/first"), ("12:30", "12:30")])
def test_text_from_a_command_line_becomes_the_value_that_it_looks_like(text, value):
    assert typed(text) == value
    assert type(typed(text)) is type(value)


def test_a_number_stays_text_where_the_default_is_text():
    assert typed("7", Parameter("run", '"runs/first"', "")) == "7"


def test_options_are_read_in_every_way_of_writing_them():
    words = ["--learning-rate", "1e-3", "--name=a=b", "--shift", "-2", "--loud"]
    assert options(words, {}) == {"learning_rate": 1e-3, "name": "a=b", "shift": -2, "loud": True}


@pytest.mark.parametrize("words", [["steps", "3"], ["--steps", "3", "4"], ["--steps", "3", "--steps", "4"]])
def test_words_that_are_no_options_are_refused(words):
    with pytest.raises(ValueError, match=r"expected --name value|given twice"):
        options(words, {})


def test_the_help_of_a_command_lists_its_notebooks_parameters(here):
    write(here, "2-train")
    shown = CliRunner().invoke(app, ["train", "--help"])
    assert shown.exit_code == 0
    assert "--steps  how many; a = b is no parameter  [3]" in shown.output


def test_an_error_is_a_message_and_exit_status_one(here):
    write(here, "2-train")
    shown = CliRunner().invoke(app, ["train", "--stepz", "3"])
    assert shown.exit_code == 1
    assert "did you mean 'steps'" in shown.output
    assert "Traceback" not in shown.output


def test_debug_shows_where_an_error_came_from(here):
    shown = CliRunner().invoke(app, ["train", "--debug"])
    assert isinstance(shown.exception, ValueError)


def test_demo_names_its_notebook_and_picture_and_prints_its_table(here):
    write(here, "1-first-segmentation", '''from pathlib import Path
Path(run).mkdir(parents=True, exist_ok=True)
Path(run, "summary.csv").write_text("present,Dice\\nvenous,0.90 ± 0.01\\n", encoding="utf-8")''')
    shown = CliRunner().invoke(app, ["demo", "--run", "runs/7"])
    assert shown.exit_code == 0, shown.output
    assert str(here / "runs" / "7" / "1-first-segmentation.ipynb") in shown.output
    assert str(here / "runs" / "7" / "segmentation.png") in shown.output
    assert "venous 0.90 ± 0.01" in shown.output


def test_the_table_of_the_demo_is_printed_as_it_was_written(tmp_path):
    (tmp_path / "summary.csv").write_text("present,Dice\nvenous,0.90\n", encoding="utf-8")
    assert summary({"run": tmp_path}).endswith("present Dice\n venous 0.90")


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_run_that_is_not_there_is_said_and_not_made(here, command):
    write(here, {"predict": "3-predict", "evaluate": "4-evaluate"}[command])
    (here / "runs" / "first").mkdir(parents=True)
    shown = CliRunner().invoke(app, [command, "--run", "runs/frist"])
    assert shown.exit_code == 1
    assert "found no run folder runs/frist (did you mean 'first'?), expected one that train wrote" in shown.output
    assert [one.name for one in (here / "runs").iterdir()] == ["first"]


def test_a_folder_of_predictions_that_is_not_there_is_said_and_not_made(here):
    write(here, "4-evaluate", parameters="predictions = None\ndata = 'data'\n")
    shown = CliRunner().invoke(app, ["evaluate", "--predictions", "nnunet", "--data", "data"])
    assert shown.exit_code == 1
    assert "found no folder of predictions nnunet" in shown.output
    assert not (here / "nnunet").exists()


def test_an_evaluation_prints_its_table_with_regions_of_any_name(tmp_path):
    rows = [{"run": "r", "fold": 0, "seed": 0, "method": "maml", "policy": "fused", "present": "t1", "region": "NA",
             "case": case, "metric": metric, "unit": unit, "value": value, "empty": empty}
            for case, empty in (("a", ""), ("b", "truth"))
            for metric, unit, value in (("dice", "fraction", 0.5), ("assd", "mm", 1.0), ("hd95", "mm", 2.0))]
    pd.DataFrame(rows).to_csv(tmp_path / "metrics.csv", index=False)
    said = scores({"run": str(tmp_path), "out": None})
    assert said.startswith(f"Table: {tmp_path / 'metrics.csv'}")
    assert " ".join(said.splitlines()[-1].split()) == (
        "maml t1 NA 50.0 ± 0.0 1.0 ± 0.0 1.0 (1.0 to 1.0) 2.0 ± 0.0 2.0 (2.0 to 2.0) 2 1")
