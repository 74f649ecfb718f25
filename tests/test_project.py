"""What lies beside the package: how it is cited and licensed, and the oldest versions that it allows."""

import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml
from oldest import KEPT, oldest

import maml_toolkit

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# https://github.com/citation-file-format/citation-file-format/blob/1.2.0/schema-guide.md
CFF_REQUIRED = {"cff-version", "message", "title", "authors"}
CFF_KNOWN = CFF_REQUIRED | {
    "abstract", "commit", "contact", "date-released", "doi", "identifiers", "keywords", "license", "license-url",
    "preferred-citation", "references", "repository", "repository-artifact", "repository-code", "type", "url",
    "version"}
CFF_PAPER_KNOWN = {
    "type", "title", "authors", "year", "month", "collection-title", "conference", "identifiers", "doi", "url", "start",
    "end", "volume", "volume-title", "publisher", "editors"}


def test_the_citation_is_a_citation_file_of_version_1_2_that_prefers_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert CFF_REQUIRED <= set(citation) <= CFF_KNOWN
    assert citation["version"] == PROJECT["version"] == maml_toolkit.__version__
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors"} <= set(paper) <= CFF_PAPER_KNOWN
    assert paper["type"] == "conference-paper"
    assert paper["year"] == 2021
    assert [author["family-names"] for author in paper["authors"]] == [
        "Zhang", "Yang", "Tian", "Shi", "Zhong", "Zhang", "He"]
    assert all(set(author) == {"family-names", "given-names"} for author in paper["authors"])


def test_the_licence_is_apache_2_0_as_a_whole():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert re.findall(r"^   (\d)\. ", text, re.MULTILINE) == list("123456789")
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["license-files"] == ["LICENSE"]


def test_the_oldest_versions_are_the_lower_bounds():
    found = oldest(PROJECT)
    assert found["numpy"] == "2"
    assert found["anywidget"] == "0.9.13"
    assert found["torch"] == KEPT["torch"]
    assert "maml_toolkit" not in found
    for extra in PROJECT["optional-dependencies"].values():
        assert {re.match(r"[\w.-]+", one)[0] for one in extra} - {"maml_toolkit"} <= set(found)
    with pytest.raises(ValueError, match="'loose<3'"):
        oldest({"name": "one", "dependencies": ["loose<3"], "optional-dependencies": {}})


def test_the_kept_versions_are_those_of_the_constraints():
    constraints = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert {name: constraints[name] for name in KEPT} == KEPT


def test_the_console_script_is_the_application_of_the_module():
    from maml_toolkit.__main__ import app

    ((name, target),) = PROJECT["scripts"].items()
    assert name == "maml-toolkit"
    assert EntryPoint(name, target, "console_scripts").load() is app


def test_contributing_is_one_page():
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 100
