"""The Python in the README and in docs/ runs as printed, what they name is there, and the README stays short."""

import re
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
BUILT = "gallery"
"""A page that docs/build.py writes."""
README = ROOT / "README.md"
GUIDES = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.stem != "get-started"]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def python_of(page: Path) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", text_of(page), flags=re.DOTALL))


def named_in(page: Path) -> list[str]:
    """Relative links, and names of notebooks and texts between backticks."""
    found = re.findall(r"\]\(([^)#:]+)\)|`([\w/.-]+/[\w.-]+\.(?:ipynb|md|sh))`", text_of(page))
    return [first or second for first, second in found]


def test_the_code_of_the_readme_runs_as_printed_and_that_of_the_pages_goes_on_from_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(python_of(README), names)
    assert "arterial+venous" in capsys.readouterr().out
    assert names["venous"].modalities == ("venous",)
    assert len(pd.read_csv(tmp_path / "runs" / "readme" / "history.csv")) == 8
    exec(python_of(ROOT / "docs" / "get-started.md"), names)     # finds the same run trained
    assert [*(tmp_path / "runs" / "readme" / "predictions" / "first").glob("*_seg.nii.gz")]
    for page in GUIDES:
        exec(python_of(page), dict(names))
    shown = capsys.readouterr().out
    assert "average" in shown
    assert "p_holm" in shown
    assert "cases only" in shown
    assert (tmp_path / "runs" / "readme" / "nnunet" / "dataset.json").exists()


def test_every_file_that_the_readme_and_the_pages_name_is_there():
    assert len(named_in(README)) > 8
    for page in (README, *(ROOT / "docs").glob("*.md")):
        for one in named_in(page):
            assert (page.parent / one).exists() or (ROOT / one).exists() or one == f"{BUILT}.md", f"{page.name}: {one}"


def test_every_page_stands_on_the_front_page():
    listed = re.findall(r"^(?:[\w ]+ <)?([\w/-]+)>?$", text_of(ROOT / "docs" / "index.md"), re.MULTILINE)
    docs = ROOT / "docs"
    pages = {page.relative_to(docs).with_suffix("").as_posix() for page in docs.rglob("*.md")} - {"index"}
    assert pages | {"recipes/README", "CONTRIBUTING", "CHANGELOG", BUILT} == set(listed)
    assert len(listed) == len(set(listed))


def test_the_readme_is_short():
    assert len(text_of(README).split()) <= 800


def test_the_buttons_open_three_tutorials_that_are_there():
    opened = re.findall(r"\]\(https://(mybinder|colab)[^)]*?/([\w-]+)/maml_toolkit/[^)]*?(tutorials/[\w-]+\.ipynb)\)",
                        text_of(README))
    assert [host for host, *_ in opened] == ["mybinder", "colab"] * 3
    assert len({owner for _, owner, _ in opened}) == 1
    assert {name.split("/")[1][0] for *_, name in opened} == {"1", "5", "6"}
    assert all((ROOT / name).is_file() for *_, name in opened)


def test_the_citation_of_the_readme_is_the_one_of_the_citation_file():
    cff = text_of(ROOT / "CITATION.cff")
    entry = dict(re.findall(r"^\s*(\w+)\s*= \{(.*)\},?$", text_of(README), re.MULTILINE))
    assert entry["title"] in cff
    assert f"arXiv:{entry['eprint']}" in cff
    authors = re.findall(r"family-names: (.*)\n\s*given-names: (.*)", cff)
    assert entry["author"].split(" and ") == [", ".join(one) for one in authors]
