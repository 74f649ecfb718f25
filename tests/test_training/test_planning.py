"""Plans: what fits, why, what is measured for it, and what is refused."""

import dataclasses
import json
import shlex
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from tiny_training import environment
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import maml_toolkit
from maml_toolkit import Plan
from maml_toolkit.__main__ import app
from maml_toolkit.commands import jobs
from maml_toolkit.commands.parameters import options, parameters_of
from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import write_cases
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.methods import build, subsets
from maml_toolkit.networks import execution
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.runs import Run
from maml_toolkit.system import machine
from maml_toolkit.system.apart import apart
from maml_toolkit.training import planning
from maml_toolkit.training.planning import measuring
from maml_toolkit.training.planning.choosing import MEMORIES_GB, Need, card, choose
from maml_toolkit.training.planning.counting import Alive, counted, end_of, typical_share
from maml_toolkit.training.planning.measuring import Costs
from maml_toolkit.training.planning.plans import PAPER, WEEK_H, bytes_of

LAPTOP = Costs(base=0.5e9, per_byte=1.4, per_part=0.05, per_flop=1e-11)
"""A CPU of 100 GFLOP/s."""
MAML = {"name": "maml", "modalities": ["arterial", "venous"], "classes": 2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planned")
    write_cases(phantoms.liver_phases(3, size=40), folder / "data", "folders", TASKS["liver_phases"])
    jobs.run("1-prepare", parameters={"data": folder / "data", "task": "liver_phases", "out": folder / "prepared"},
             progress=False)
    return folder / "prepared"


@pytest.fixture
def unmeasured(monkeypatch):
    """Measuring is not allowed."""
    def measured(*_):
        raise AssertionError("nothing needed to be measured")

    monkeypatch.setattr(planning, "measured", measured)


@pytest.fixture
def laptop(monkeypatch):
    """Widths of the networks that were measured, with the costs of LAPTOP."""
    asked = []
    monkeypatch.setattr(planning, "measured", lambda method, *_: asked.append(method["channels"][0]) or LAPTOP)
    monkeypatch.setattr(planning, "available_memory", lambda _: 16e9)
    return asked


def need(**changed):
    return Need(**{"method": MAML, "shape": (70, 86, 70), "spacing_mm": (2.0, 2.0, 2.0), "device": "cpu",
                   "precision": "bfloat16", "available": 16e9, "hours": 1.0, "cores": 2, **changed})


PLANNED = {
    4: {8: ((80, 112, 96), 2, True), 12: ((96, 128, 96), 2, True), 16: ((128, 128, 128), 2, True),
        24: ((128, 128, 128), 2, False), 48: ((128, 128, 128), 1, False), 80: ((128, 128, 128), 1, False)},
    2: {8: ((96, 128, 96), 2, False), 12: ((128, 128, 128), 2, False), 16: ((128, 128, 128), 2, False),
        24: ((128, 128, 128), 1, False), 48: ((128, 128, 128), 1, False), 80: ((128, 128, 128), 1, False)},
}
"""Scans -> GB -> patch, parts of a batch, recomputation."""


@pytest.mark.parametrize("scans", PLANNED)
@pytest.mark.parametrize("memory_gb", MEMORIES_GB)
def test_a_card_gets_the_largest_patch_and_saves_memory_elsewhere_before_the_patch_shrinks(scans, memory_gb):
    plan = card(memory_gb, scans)
    assert (plan.patch_size, plan.accumulate, plan.recompute) == PLANNED[scans][memory_gb]
    assert plan.channels == PAPER["channels"][:len(plan.channels)]
    assert (plan.batch_size, plan.steps, plan.learning_rate, plan.schedule) == (2, 150_000, 3e-4, "constant")
    assert 5e9 < plan.memory <= 0.92 * memory_gb * 1e9
    assert plan.hopeless() == ""


def test_a_sentence_says_what_the_next_larger_patch_would_have_taken():
    (patch,) = [one for one in card(8).reasons if one.startswith("Patches")]
    assert patch.startswith("Patches of 80x112x96: 96x128x96 would take ")
    assert patch.endswith("of the 8.0 GB there are.")
    (parts,) = [one for one in card(24).reasons if one.startswith("A batch of 2 in 2 parts")]
    assert "at once, a step would take 3" in parts
    assert "of the 24 GB there are" in parts


def test_the_table_of_cards_in_the_documentation_is_what_the_command_prints(pytestconfig):
    shown = CliRunner().invoke(app, ["plan", "--cards"])
    page = (pytestconfig.rootpath / "docs" / "planning.md").read_text(encoding="utf-8")
    assert shown.exit_code == 0
    assert shown.output.count("\n| ") == len(MEMORIES_GB)
    assert shown.output.strip() in page
    assert "planned, not measured" in page


def test_more_hours_give_a_wider_network_and_never_more_than_the_hours():
    plans = {hours: choose(need(hours=hours), lambda _: LAPTOP) for hours in (0.5, 2, 12, 200)}
    assert [one.channels[0] for one in plans.values()] == sorted(one.channels[0] for one in plans.values())
    assert plans[0.5].channels[0] < plans[200].channels[0] == 32
    for hours, one in plans.items():
        assert 0.8 * hours < one.hours <= hours
        assert one.steps >= 1000
    assert plans[0.5].schedule == "one-cycle"
    assert any("first look" in one for one in plans[0.5].reasons)


def test_a_network_is_measured_only_if_the_fastest_processor_could_train_it_in_the_hours():
    asked = []
    plan = choose(need(hours=0.2), lambda channels: asked.append(channels[0]) or LAPTOP)
    assert plan.channels[0] in asked
    assert 32 not in asked
    assert any(one.startswith("4 stages of 8-16-32-64 channels: 16-32-64-128") for one in plan.reasons)


def test_a_network_that_could_not_even_be_measured_gives_way_to_a_narrower_one():
    def costs(channels):
        if channels[0] > 8:
            raise MemoryError("a step of 24^3 voxels does not fit")
        return LAPTOP

    plan = choose(need(hours=8), costs)
    assert plan.channels[0] == 8
    assert any("cannot be measured (a step of 24^3 voxels does not fit)" in one for one in plan.reasons)


def test_validation_is_part_of_the_hours():
    without, many = (choose(need(hours=8, validated=count), lambda _: LAPTOP) for count in (0, 40))
    assert many.patch_size == without.patch_size
    assert many.steps < 0.97 * without.steps
    assert 0.8 * 8 < many.hours <= 8


def test_hours_that_are_too_few_for_anything_still_give_the_fastest_network_for_them():
    plan = choose(need(hours=0.01), lambda _: LAPTOP)
    assert plan.channels[0] == 8
    assert plan.hours <= 0.011
    assert 1 <= plan.steps < 1000


def test_memory_for_nothing_is_said_with_what_it_would_have_taken():
    with pytest.raises(ValueError, match=r"32x32x32.*0\.4 GB.*memory"):
        choose(need(available=0.4e9), lambda _: LAPTOP)


def test_what_is_given_is_kept_and_named_and_the_rest_planned_around_it(prepared, laptop):
    plan = planning.plan(prepared, channels=[8, 16], batch_size=4, learning_rate=1e-3, hours=0.2, accumulate=None)
    assert (plan.channels, plan.batch_size, plan.learning_rate) == ((8, 16), 4, 1e-3)
    assert set(plan.given) == {"channels", "batch_size", "learning_rate"}
    assert plan.hours <= 0.2
    fixed = planning.plan(prepared, patch_size=[32, 32, 16], epochs=7, steps_per_epoch=11)
    assert (fixed.patch_size, fixed.steps) == ((32, 32, 16), 77)
    assert fixed.channels[0] == 32                       # for so few steps there is time
    assert "Patches of 32x32x16 (given)." in fixed.reasons


def test_the_network_that_is_planned_has_the_channels_of_what_is_trained_on(prepared, laptop, monkeypatch):
    asked = []
    monkeypatch.setattr(planning, "measured", lambda method, *_: asked.append(method.get("regions")) or LAPTOP)
    for train_on in (None, "classes", "regions"):
        planning.plan(prepared, train_on=train_on, channels=[8, 16], patch_size=[32, 32, 16], hours=0.2)
    assert list(dict.fromkeys(map(str, asked))) == ["None", "[[1]]"]


def test_where_all_is_given_nothing_is_measured_and_the_rest_is_the_papers(prepared, unmeasured):
    plan = planning.plan(prepared, channels=[4, 6], patch_size=[16, 16, 16], epochs=2)
    assert plan.settings == {**PAPER, "channels": (4, 6), "patch_size": (16, 16, 16), "epochs": 2}
    assert plan.hours is None
    with pytest.raises(ValueError, match=r"epocs.*'epochs'"):
        planning.plan(prepared, epocs=3)


@pytest.mark.parametrize("given", [{"batch_size": 0}, {"epochs": -1}, {"patch_size": [32, 0, 32]}, {"channels": [0]},
                                   {"learning_rate": 0.0}])
def test_a_number_that_is_not_above_0_is_refused_by_its_name(prepared, unmeasured, given):
    with pytest.raises(ValueError, match=f"{next(iter(given))}="):
        planning.plan(prepared, **given)


def test_a_plan_survives_json_and_another_file_is_none(tmp_path, prepared, laptop):
    plan = planning.plan(prepared, hours=0.3)
    assert Plan.load(plan.save(tmp_path / "plan.json")) == plan
    again = planning.plan(prepared, plan=tmp_path / "plan.json", epochs=3)
    assert again.settings == {**plan.settings, "epochs": 3}
    assert "epochs" in again.given
    for content in ("{", "[]", json.dumps({"channels": [4], "patch": [8]})):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(ValueError, match=r"other\.json"):
            planning.plan(prepared, plan=tmp_path / "other.json")
    with pytest.raises(ValueError, match="'paper'"):
        planning.plan(prepared, plan="papr")


def test_the_papers_plan_has_the_papers_numbers_and_is_hopeless_on_a_cpu(prepared, unmeasured):
    plan = planning.plan(prepared, plan="paper", device="cpu", batch_size=4)
    assert plan.settings == {**PAPER, "batch_size": 4}
    assert plan.hours > WEEK_H
    assert "months" in plan.hopeless() or "weeks" in plan.hopeless()


def test_a_hopeless_training_is_refused_with_an_alternative_unless_it_is_meant(prepared, laptop, tmp_path):
    with pytest.raises(ValueError, match=r"--yes") as refused:
        planning.for_run(tmp_path / "run", prepared, plan="paper", device="cpu")
    assert "--plan" in str(refused.value)
    assert not (tmp_path / "run").exists()
    planned = planning.for_run(tmp_path / "run", prepared, plan="paper", device="cpu", yes=True)
    assert Plan.load(tmp_path / "run" / "plan.json") == planned
    assert planned.steps == 150_000


def test_more_memory_than_there_is_counts_as_hopeless():
    plan = Plan((8, 16), (16, 16, 16), memory=13e9, available=12e9)
    assert plan.hopeless() == "a step would take 13.0 GB of the 12.0 GB there are on cpu"
    assert dataclasses.replace(plan, memory=11e9).hopeless() == ""


def test_a_run_that_was_begun_goes_on_with_its_plan(prepared, laptop, tmp_path):
    first = planning.for_run(tmp_path / "run", prepared, hours=0.3)
    (tmp_path / "run" / "settings.json").write_text("{\"task\": {}}")
    laptop.clear()
    assert planning.for_run(tmp_path / "run", prepared, hours=0.3) == first
    assert planning.for_run(tmp_path / "run", prepared, epochs=1).settings == {**first.settings, "epochs": 1}
    assert laptop == []


def test_the_command_prints_the_sentences_and_writes_the_plan(prepared, laptop, tmp_path):
    shown = CliRunner().invoke(app, ["plan", "--prepared", str(prepared), "--hours", "0.3", "--channels", "8 16",
                                     "--memory", "4GB", "--out", str(tmp_path / "plan.json")])
    assert shown.exit_code == 0, shown.output
    plan = maml_toolkit.Plan.load(tmp_path / "plan.json")
    assert (plan.channels, plan.available) == ((8, 16), 4e9)
    assert all(one in shown.output for one in plan.reasons)
    known, own = parameters_of("2-train"), {"subset_sampling": "by-size"}
    words = ["--method", "hemis", "--epochs", "3", "--method-settings", json.dumps(own)]
    for out in ([], ["--out", str(tmp_path / "again.json")]):       # train is told all that the plan does not say
        shown = CliRunner().invoke(app, ["plan", str(prepared), *words, *out])
        told = options(shlex.split(shown.output.splitlines()[-1])[5:], known, ["prepared"])
        assert told == {"prepared": str(prepared), "method": "hemis", "method_settings": own,
                        **({"plan": out[1]} if out else {"epochs": 3})}
    unknown = CliRunner().invoke(app, ["plan", "--epocs", "3"])
    assert unknown.exit_code == 1
    assert "did you mean 'epochs'" in unknown.output
    paper = CliRunner().invoke(app, ["plan", "--prepared", str(prepared), "--plan", "paper", "--device", "cpu"])
    assert "train asks for --yes" in paper.output


def test_a_training_that_starts_elsewhere_is_planned_as_wide_as_that_and_told_as_json(prepared, laptop, tmp_path):
    before = Run(tmp_path / "before")
    checkpoints.save(before.checkpoints, 1, build("maml", modalities=MAML["modalities"], classes=2, channels=(4, 6)))
    before.write_settings({"task": TASKS["liver_phases"].to_json(), "trainer": {"patch_size": [16, 16, 16]}})
    shown = CliRunner().invoke(app, ["plan", "--prepared", str(prepared), "--start", str(before.folder), "--json"])
    told = json.loads(shown.stdout)
    assert (told["channels"], told["patch_size"]) == ([4, 6], [16, 16, 16])


def test_a_size_of_memory_is_read_as_it_is_typed():
    assert [bytes_of(one) for one in ("12GB", "0.5 GiB", "900MB", 8)] == [12e9, 2**29, 9e8, 8e9]
    for wrong in ("much", "-3GB", "12 apples", "0", "inf"):
        with pytest.raises(ValueError, match="12GB"):
            bytes_of(wrong)


def test_bytes_are_counted_from_an_operation_to_the_end_of_what_it_made():
    with Alive() as alive:
        first = torch.ones(1000)
        second = first + 1
        view = second[10:]
        assert (alive.now, alive.peak) == (8000, 8000)
        del first
        assert (alive.now, alive.peak) == (4000, 8000)
        del second
        assert alive.now == 4000
        assert len(view) == 990
        del view
        assert alive.now == 0


def test_what_is_counted_is_what_a_real_step_has_and_grows_with_the_voxels():
    method, patch = {**MAML, "channels": [8, 16]}, (32, 32, 32)
    step = counted(method, patch, "float32")
    network, alive = build(**method), Alive()
    assert step.weights == 16 * sum(one.numel() for one in network.parameters())      # itself, gradient, Adam
    with alive:
        images = {name: torch.randn(1, 1, *patch) for name in network.modalities}
        labels = torch.zeros(1, *patch, dtype=torch.long)
        network.loss(images, labels, torch.Generator())["total"].backward()
    assert step.per_patch == pytest.approx(alive.peak, rel=0.05)
    assert counted(method, (64, 32, 32), "float32").flop == 2 * step.flop
    assert counted(method, patch, "float32", recompute=True).per_patch < 0.75 * step.per_patch
    assert counted(method, patch, "float32", recompute=True).flop > step.flop


@pytest.mark.parametrize("own", [
    {"name": "hemis"}, {"name": "uhved"}, {"subset_weight": 1, "ranking_weight": 0.1},
    {"subset_sampling": "nested", "subset_weight": 1, "distillation_weight": 0.5,
     "distillation_weighting": "foreground"}, {"name": "early_fusion", "dropout": 0.3}, {"classes": 4}])
def test_a_step_that_draws_is_counted(own, monkeypatch):
    """Tensors without values cannot be drawn from, neither subsets nor, with 15 of them for 8 channels, the directions
    of the heads; what is counted is what a real step with the same draw has. It is counted as for a large patch, where
    no convolution is cut in two."""
    monkeypatch.setattr(execution, "FOR_ONEDNN", 0)
    method = {**MAML, "modalities": ["t1", "t1ce", "t2", "flair"], "channels": [8, 16], **own}
    network, alive = build(**method), Alive()
    with alive, subsets.drawing(network.heaviest_draw):
        images = {name: torch.randn(1, 1, 32, 32, 32) for name in network.modalities}
        network.loss(images, torch.zeros(1, 32, 32, 32, dtype=torch.long), torch.Generator())["total"].backward()
    assert counted(method, (32, 32, 32), "float32").per_patch == pytest.approx(alive.peak, rel=0.05)


def flop_of_a_step(network, seed=None, drawn=None) -> int:
    """Of a real step, with the draw of a seed or of so many modalities."""
    images = {name: torch.randn(1, 1, 8, 8, 8) for name in network.modalities}
    with FlopCounterMode(display=False) as counter, subsets.drawing(drawn) if drawn else nullcontext():
        generator = torch.Generator() if seed is None else torch.Generator().manual_seed(seed)
        network.loss(images, torch.zeros(1, 8, 8, 8, dtype=torch.long), generator)["total"].backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("own", [{"name": "hemis"}, {"subset_weight": 1}, {"subset_weight": 1, "intra_weight": 0},
                                 {"subset_sampling": "nested", "subset_weight": 1},
                                 {"subset_sampling": "nested", "distillation_weight": 1}])
def test_no_draw_takes_more_than_the_one_that_is_counted(own):
    method = {**MAML, "modalities": ["t1", "t1ce", "t2", "flair"], "channels": [4, 8], **own}
    network = build(**method)
    drawn = {flop_of_a_step(network, seed) for seed in range(40)}
    assert len(drawn) > 1
    assert max(drawn) == counted(method, (8, 8, 8), "float32").flop


@pytest.mark.parametrize(("sampling", "chances"), [("uniform", (3 / 7, 3 / 7, 1 / 7)),
                                                   ("by-size", (1 / 3, 1 / 3, 1 / 3))])
def test_the_time_is_that_of_the_mean_draw(sampling, chances):
    """Of three modalities three, three and one of seven subsets have one, two and three; or each size is as likely."""
    method = {"name": "hemis", "modalities": ["t1", "t2", "flair"], "classes": 2, "channels": [4, 8],
              "subset_sampling": sampling}
    flop = [flop_of_a_step(build(**method), drawn=size) for size in (1, 2, 3)]
    assert typical_share(json.dumps(method)) == pytest.approx(np.dot(chances, flop) / flop[2])
    assert typical_share(json.dumps({**MAML, "channels": [4, 8]})) == 1


def test_the_time_of_nested_draws_is_that_of_their_mean():
    method = {**MAML, "modalities": ["t1", "t1ce", "t2", "flair"], "channels": [4, 8], "subset_sampling": "nested",
              "subset_weight": 1}
    network, most = build(**method), counted(method, (8, 8, 8), "float32").flop
    generators = (torch.Generator().manual_seed(seed) for seed in range(1000))
    sizes = [tuple(map(len, subsets.draw_nested(network.modalities, one))) for one in generators]
    flop = {drawn: flop_of_a_step(network, sizes.index(drawn)) for drawn in set(sizes)}
    mean = np.mean([flop[drawn] for drawn in sizes])
    assert typical_share(json.dumps(method)) == pytest.approx(mean / most, rel=0.03)


def test_what_is_learned_at_the_end_is_counted_by_the_answers_and_sums_that_it_takes():
    """Early fusion answers its three subsets one by one and has one answer of each; MAML runs its streams once."""
    early = {**MAML, "name": "early_fusion", "channels": [4, 8]}
    found = end_of(json.dumps(early))                   # it answers from all alone: once a sweep, once for small parts
    assert found == (1 + 1, 2 * (1 * (1 + 1) + 1))
    found = end_of(json.dumps({**early, "dropout": 0.3}))
    assert found == (3 + 1, 2 * (3 * (1 + 1) + 3))
    answers, values = end_of(json.dumps({**MAML, "channels": [4, 8]}))
    assert 3 <= answers < 3.5
    # two classes; of three subsets two parts and the answers by three policies, and what all say by three policies
    assert values == 2 * (3 * (2 + 3) + 3 * 3)
    _, five = end_of(json.dumps({**MAML, "modalities": ["t1", "t1ce", "t2", "flair", "pd"], "channels": [4, 8]}))
    # of 31 subsets 16 are held, of five, four and three scans; all ten pairs are asked for how sure these are
    assert five == 2 * ((16 + 10) * (2 + 3) + 16 * 3)


def test_the_end_is_part_of_the_hours_and_said():
    plan = choose(need(hours=8, validated=40), lambda _: LAPTOP)
    (said,) = (one for one in plan.reasons if "40 validation cases tell" in one)
    assert "more than there is" not in said
    assert not [one for one in choose(need(hours=8), lambda _: LAPTOP).reasons if "validation" in one]
    many = {"method": {**MAML, "modalities": ["t1", "t1ce", "t2", "flair"], "classes": 4}, "shape": (600, 600, 400)}
    plan = choose(need(hours=8, validated=4, **many), lambda _: LAPTOP)
    assert any("GB beside the network, more than there is" in one for one in plan.reasons)


def test_a_plan_from_steps_that_were_measured_here(prepared):
    plan = planning.plan(prepared, hours=0.05, device="cpu", memory="8GB")
    assert plan.channels[0] in (8, 16, 32)
    assert plan.available == 8e9
    assert 0.1e9 < plan.memory < 7.4e9
    assert 0 < plan.hours <= 0.051
    assert plan.precision in ("float32", "bfloat16")
    before = measuring._measured.cache_info()
    planning.plan(prepared, hours=0.05, device="cpu", memory="8GB")
    assert measuring._measured.cache_info().misses == before.misses


@pytest.mark.parametrize(("said", "error"), [("… ended with -9:\n", MemoryError), ("MemoryError: a step", MemoryError),
                                             ("KeyError: 'scan'", RuntimeError)])
def test_a_process_that_dies_of_memory_says_that_nothing_fits(monkeypatch, said, error):
    def dies(*_, **__):
        raise RuntimeError(said)

    monkeypatch.setattr(measuring, "apart", dies)
    with pytest.raises(error):
        measuring.measured({**MAML, "channels": [4, 7]}, torch.device("cpu"), "float32")


@pytest.mark.slow
def test_train_refuses_what_would_take_months_and_starts_nothing(prepared, tmp_path):
    asked = [sys.executable, "-m", "maml_toolkit", "train", "--prepared", str(prepared), "--run", "run",
             "--plan", "paper", "--device", "cpu"]
    done = subprocess.run(asked, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "--yes" in done.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["2-train.unfinished.ipynb"]


@pytest.mark.slow
def test_train_with_nothing_but_its_paths_starts_what_was_planned_and_ends_in_the_hours(prepared, tmp_path):
    asked = [sys.executable, "-m", "maml_toolkit", "train", "--prepared", str(prepared), "--run", "run",
             "--hours", "0.01"]
    done = subprocess.run(asked, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    plan = Plan.load(tmp_path / "run" / "plan.json")
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["trainer"]["epochs"] == plan.epochs
    assert settings["trainer"]["patch_size"] == list(plan.patch_size)
    assert all(one in done.stdout for one in plan.reasons)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA GPU"))])
@pytest.mark.parametrize(("scans", "channels", "edge", "batch", "recompute"), [
    (1, [32, 64, 128], 48, 1, False), (2, [16, 32, 64, 128], 64, 1, False), (3, [8, 16, 32, 64], 64, 1, False),
    (4, [8, 16, 32, 64], 48, 2, False), (4, [16, 32, 64], 48, 2, True)])
def test_the_planned_peak_of_memory_is_near_the_true_one(kind, scans, channels, edge, batch, recompute):
    device = torch.device(kind)
    precision = str(machine.choose_precision(device)).removeprefix("torch.")
    method = {"name": "maml", "modalities": TASKS["brats2021"].modalities[:scans], "classes": 4, "channels": channels}
    costs = measuring.measured(method, device, precision)
    planned = costs.memory(counted(method, (edge,) * 3, precision, recompute), batch)
    # the same step in another process peaks up to 8 % higher or lower: what must fit is the highest
    true = max(apart("maml_toolkit.training.planning.measuring", "small_steps", method=method, sizes=[edge],
                     precision=precision, device=kind, threads=torch.get_num_threads(), batch_size=batch,
                     recompute=recompute)["steps"][0]["peak"] for _ in range(3))
    # in float32 on a CPU small patches are convolved otherwise than large ones: up to 13 % too high was seen
    assert planned == pytest.approx(true, rel=0.2 if (kind, precision) == ("cpu", "float32") else 0.1)
