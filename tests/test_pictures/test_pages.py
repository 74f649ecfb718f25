"""What every page promises to those who read it: one title, pictures that say what they show, tables that line up."""

import io
import itertools
import json
import re
from base64 import b64decode
from html.parser import HTMLParser
from types import SimpleNamespace
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM
from browser import page as browser_page
from matplotlib.colors import to_rgb
from PIL import Image

from maml_toolkit import MAML, Predictor, Trainer
from maml_toolkit.data import phantoms
from maml_toolkit.data.audit import audit_source
from maml_toolkit.data.cases import Case, write_cases
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.evaluation import subset_table
from maml_toolkit.evaluation.table import COLUMNS, read_table
from maml_toolkit.pictures import plots, report
from maml_toolkit.pictures.plots.look import class_colours
from maml_toolkit.pictures.report.pages import drawn, files, table
from maml_toolkit.prediction.runs import Run
from maml_toolkit.system.errors import grouped

BRATS = TASKS["brats2021"]
NAMES = {*BRATS.class_names[1:], *BRATS.regions}
SCANS = BRATS.modalities


class Page(HTMLParser):
    """A page as a reader meets it: its parts in their order; a tag that is not closed in its place is an error."""

    def __init__(self, html):
        super().__init__()
        self.order, self.open, self.texts, self.ids, self.links = [], [], {}, [], []
        self.figures, self.tables, self.swatches = [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        one = dict(attributes)
        self.order.append(tag)
        self.ids += [one["id"]] if "id" in one else []
        self.links += [one["href"]] if "href" in one else []
        if tag == "figure":
            self.figures.append(SimpleNamespace(alt="", caption=""))
        if tag == "img":
            pixels = np.asarray(Image.open(io.BytesIO(b64decode(one["src"].split(",")[1]))).convert("RGB"))
            if "figure" in self.open:
                self.figures[-1].alt, self.figures[-1].pixels = one["alt"], pixels
            else:
                self.swatches.append(tuple(pixels[0, 0]))
        if tag == "table":
            self.tables.append(SimpleNamespace(rows=[], caption=""))
        if tag == "tr":
            self.tables[-1].rows.append([])
        if tag in ("td", "th"):
            self.tables[-1].rows[-1].append(SimpleNamespace(tag=tag, text="", **{
                "scope": None, "class": None, "colspan": 1, **one}))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in self.open[-1:]:
            self.texts.setdefault(tag, []).append(data)
        if "figcaption" in self.open:
            self.figures[-1].caption += data
        if "caption" in self.open:
            self.tables[-1].caption += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1].rows[-1][-1].text += data


def read(path):
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def predictor():
    return Predictor(MAML(SCANS, BRATS.classes, channels=(4, 6)), BRATS, (16, 16, 16), device="cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was measured on two cases from every subset of four scans, its numbers drawn at random."""
    run = Run(tmp_path_factory.mktemp("runs") / "a <run>")
    cases = phantoms.brains(2, size=24)
    run.folder.mkdir()
    trainer = Trainer(MAML(SCANS, BRATS.classes, channels=(4, 6)), run.folder, BRATS, patch_size=(16, 16, 16))
    (run.folder / "settings.json").write_text(json.dumps({
        "method": trainer.method.settings, "task": BRATS.to_json(),
        "trainer": {"epochs": 2, "augmentation": {"gamma": 0.3}, "start": None},
        "cases": {"training": ["other"], "validation": [cases[0].id]}}))
    random = np.random.default_rng(0)
    subsets = ["+".join(one) for size in range(len(SCANS), 0, -1) for one in itertools.combinations(SCANS, size)]
    rows = [(case.id, "maml", run.name, 0, 0, "fused", subset, region, metric, unit, random.uniform(0, most), "")
            for case in cases for subset in subsets
            for region in BRATS.regions
            for metric, unit, most in (("dice", "fraction", 1), ("assd", "mm", 30), ("nsd@2", "fraction", 1))]
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(run.metrics, index=False)
    dice = {f"validation/dice/{one}": [0.1, 0.5] for one in BRATS.regions}
    pd.DataFrame({"epoch": [1, 2], "loss/total": [2.0, 1.0], **dice}).to_csv(run.history, index=False)
    return run, cases


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Six cases: two with the same fault in T2, one with a damaged T1, one without FLAIR, one with a copied scan."""
    folder = tmp_path_factory.mktemp("set") / "a <set>"
    cases = phantoms.brains(6, size=24)
    images = {name: one for name, one in cases[3].images.items() if name != "flair"}
    cases[3] = Case(cases[3].id, images, cases[3].label)
    write_cases(cases, folder, "folders", BRATS)

    def file(number, scan):
        return folder / cases[number].id / f"{cases[number].id}_{scan}.nii.gz"

    for number in (0, 1):
        image = nib.load(file(number, "t2"))
        voxels = image.get_fdata(dtype=np.float32)
        voxels[0, 0, 0] = np.nan
        nib.save(nib.Nifti1Image(voxels, image.affine), file(number, "t2"))
    file(2, "t1").write_bytes(file(2, "t1").read_bytes()[:1000])
    file(4, "t1ce").write_bytes(file(4, "t1").read_bytes())
    return folder, audit_source(folder, BRATS)


@pytest.fixture(scope="module")
def pages(run, faulty, predictor, tmp_path_factory):
    """Kind of page -> the name that it has to have in its title, and the page."""
    out, (one, cases) = tmp_path_factory.mktemp("pages"), run
    prediction = predictor(cases[0], uncertainty=True)
    return {"run": (one.name, read(report.run_page(one, cases, predictor, shown=1))),
            "case": (cases[0].id, read(report.case_page(cases[0], prediction, out / "case.html", {"t1": "series 3"}))),
            "audit": ("a <set>", read(report.audit_page(faulty[1], out / "audit.html", faulty[0])))}


KINDS = ("run", "case", "audit")


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_has_one_heading_which_is_its_title_and_holds_the_name(pages, kind):
    name, page = pages[kind]
    assert page.order.count("h1") == 1
    assert page.texts["h1"] == page.texts["title"]
    assert name in page.texts["h1"][0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_comes_before_the_first_table(pages, kind):
    order = pages[kind][1].order
    assert order.index("figure") < order.index("table")


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_names_a_class_or_a_region_and_says_what_it_shows(pages, kind):
    figures = pages[kind][1].figures
    assert len(figures) >= 3
    for one in figures:
        assert one.alt
        assert one.caption
        assert NAMES & set(re.findall(r"\w+", f"{one.alt} {one.caption}")), one.caption


@pytest.mark.parametrize("kind", KINDS)
def test_heads_stand_over_their_columns(pages, kind):
    for one in pages[kind][1].tables:
        assert one.caption
        assert len({sum(int(cell.colspan) for cell in row) for row in one.rows}) == 1
        head, *rows = one.rows
        if head[0].scope == "col":
            assert {(cell.tag, cell.scope) for cell in head} == {("th", "col")}
            assert all(cell.text for cell in head)
            assert {row[0].scope for row in rows} == ({None} if rows[0][0].text in ("●", "○") else {"row"})
            for column in zip(*one.rows, strict=True):
                assert len({getattr(cell, "class") for cell in column}) == 1
        else:
            assert {row[0].scope for row in one.rows} == {"row"}


def test_columns_of_numbers_and_only_those_stand_on_the_right():
    page = Page(table(["case", "Dice (%)", "median", "remark", "none"], [
        ["001", "81.5 ± 2.0", "–", "3 of 4", ""], ["002", "−1", "0.9", "good", ""]], "two cases"))
    assert [[getattr(cell, "class") for cell in row] for row in page.tables[0].rows] == [
        [None, "number", "number", None, None]] * 3


def test_the_means_of_a_run_say_over_which_cases_and_which_of_them_the_run_knew(run, pages):
    page = pages["run"][1]
    verdict = "".join(page.texts["p"] + page.texts["b"])
    for case in run[1]:
        assert case.id in verdict
    assert run[0].about_seen(case.id for case in run[1]).startswith("1 of the 2 cases")
    assert run[0].about_seen(case.id for case in run[1]) in verdict
    means = pd.read_csv(run[0].metrics).query("metric == 'dice' and present == 't1+t1ce+t2+flair'").groupby(
        "region")["value"].mean()
    for value in means:
        assert f"{100 * value:.1f} %" in page.texts["b"]
    of_means = [one for one in page.tables if "mean" in one.caption.lower()]
    assert len(of_means) == 3
    assert all("2 cases" in one.caption for one in of_means)
    assert all("2 cases" in one.caption or run[1][0].id in one.caption for one in page.figures if "mean" in one.caption)


def test_the_scores_from_all_scans_come_first_and_those_of_every_subset_last(pages):
    short, *_, every, _ = (one for one in pages["run"][1].tables)
    assert [row[0].text for row in short.rows[1:]] == ["t1+t1ce+t2+flair"] * 3
    assert len(every.rows) == 1 + 15 * 3


def test_the_links_of_a_page_lead_to_files_below_it_and_no_others_are_made(run, pages, tmp_path):
    links = [one for one in pages["run"][1].links if not one.startswith("#")]
    assert {unquote(one) for one in links} == {"metrics.csv", "history.csv", "settings.json"}
    assert not read(report.run_page(run[0], path=tmp_path / "page.html")).links
    (tmp_path / "a #1").mkdir()
    (tmp_path / "a #1" / "b%.csv").touch()
    assert Page(files(tmp_path / "page.html", [tmp_path / "a #1" / "b%.csv", tmp_path / "gone"])).links == [
        "a%20%231/b%25.csv"]


def test_findings_are_grouped_as_on_the_console_and_lead_to_the_pictures_of_their_case(faulty, pages):
    page, found = pages["audit"][1], faulty[1]
    groups = grouped(found.errors) + grouped(found.oddities)
    assert page.order.count("li") == len(groups) < len(found.errors) + len(found.oddities)
    for one in (*found.errors, *found.oddities):
        assert one.case in page.texts["a"]
    assert {one[1:] for one in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids)) == 6


def test_the_legend_of_an_audit_explains_the_colours_that_are_drawn(pages):
    page = pages["audit"][1]
    colours = {name: np.multiply(to_rgb(one), 255).round() for name, one in class_colours(BRATS).items()}
    assert np.allclose(page.swatches, list(colours.values()), atol=3.5)
    legend = next(text for text in page.texts["p"] if "necrosis" in text)
    assert legend
    for one in page.figures:
        named = one.alt.partition("outlined: ")[2].split(", ")
        for (name, _), colour in zip(colours.items(), page.swatches, strict=True):
            assert (one.pixels == colour).all(-1).any() == (name in named), one.alt


def test_a_label_whose_values_were_not_checked_has_a_legend_of_values(faulty, tmp_path):
    page = read(report.audit_page(audit_source(faulty[0]), tmp_path / "page.html"))
    assert len(page.swatches) == 3
    assert {"value 1", "value 2", "value 4"} >= {name for one in page.figures
                                                 for name in one.alt.partition("outlined: ")[2].split(", ") if name}


def test_an_audit_that_found_no_case_has_no_empty_table(tmp_path):
    (tmp_path / "set" / "x").mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), tmp_path / "set" / "x" / "x_nothing.nii.gz")
    found = audit_source(tmp_path / "set", BRATS)
    assert found.errors
    page = read(report.audit_page(found, tmp_path / "page.html"))
    assert not page.tables
    assert page.order.count("li") == len(grouped(found.errors))


def test_the_title_above_the_panels_is_read_with_the_caption(run, predictor):
    case = run[1][0]
    prediction = predictor(case)
    page = Page(drawn(lambda: plots.contribution_maps(case, prediction, BRATS, "TC"), "and more"))
    (one,) = page.figures
    assert one.caption.startswith("Red: this scan makes TC more likely")
    assert one.caption.endswith("and more")
    assert set(SCANS) < set(one.alt.split(", "))


def test_a_table_that_is_saved_alone_says_how_its_letters_are_written(run, tmp_path):
    subset_table(read_table(run[0].metrics), BRATS).save(tmp_path / "a <table>")
    html = (tmp_path / "a <table>.html").read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>")
    assert '<meta charset="utf-8">' in html[:100]
    assert "a &lt;table&gt;" in html
    assert html.count('scope="col"') == html.count("<th ") == len(SCANS) + len(BRATS.regions)


@pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_is_wider_than_the_screen_and_heads_end_where_their_numbers_do(run, faulty, width, tmp_path):
    places = [run[0].folder / "report.html", report.audit_page(faulty[1], tmp_path / "audit.html", faulty[0])]
    report.run_page(run[0])
    with browser_page(width=width) as (tab, seen):
        for place in places:
            tab.set_content(place.read_text(encoding="utf-8"))
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            apart = tab.evaluate("""() => [...document.querySelectorAll("table")].flatMap((table) => {
                const text = (cell) => { const range = document.createRange(); range.selectNodeContents(cell);
                    return range.getBoundingClientRect(); };
                const [head, ...rows] = [...table.rows].map((row) => [...row.cells]);
                return table.tHead ? rows.flatMap((row) => row.map((cell, n) => cell.textContent &&
                    cell.className === "number" ? text(cell).right - text(head[n]).right : 0)) : [];
            })""")
            assert apart
            assert max(map(abs, apart)) < 2
    assert not seen.errors
    assert not seen.elsewhere
