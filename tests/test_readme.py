"""The Python in the README runs as printed, and what it shows is there."""

import re
from pathlib import Path

import pandas as pd

README = Path(__file__).parents[1] / "README.md"


def test_the_code_of_the_readme_runs_as_printed(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec("\n".join(blocks), names)
    shown = capsys.readouterr().out
    assert "arterial+venous" in shown
    assert "average" in shown
    assert len(names["sweep"].subsets) == 3
    assert names["venous"].modalities == ("venous",)
    assert (tmp_path / "runs" / "readme" / "predictions" / "first" / "labels.nii.gz").exists()
    assert len(pd.read_csv(tmp_path / "runs" / "readme" / "history.csv")) == 14


def test_every_file_that_the_readme_names_is_there():
    text = README.read_text(encoding="utf-8")
    named = re.findall(r"\]\(([^)#:]+)\)|`([\w/.-]+\.(?:ipynb|md|cff))`", text)
    assert len(named) > 5
    for one in (first or second for first, second in named):
        assert (README.parent / one).exists(), one
