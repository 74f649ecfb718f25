"""Rows of answers: whole cases from files to a label map, all subsets, many cases in a shard, metrics of masks."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.measuring import (
    Row,
    Settings,
    against,
    apart_in_turn,
    compared,
    finished,
    installed,
    subsets_of,
    task_of,
    timed,
    without_peer,
)
from benchmarks.training import made
from maml_toolkit.data import phantoms, volumes
from maml_toolkit.data.cases import Case, find_cases, write_cases
from maml_toolkit.data.prepared import Grid, PreparedCase
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.evaluation.metrics import dice, measure
from maml_toolkit.methods import METHODS
from maml_toolkit.prediction.predicting import predict_cases
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.system import machine
from maml_toolkit.training.trainer import Trainer

MODULE = __name__
CLASSES = 4
PEERS = {"nnU-Net's whole prediction": ("nnunetv2", 0.30), "MONAI's SlidingWindowInferer": ("monai", 0.35)}


class Stacked(nn.Module):
    """Our network as the peers call one: (batch, modalities, …) in, logits out."""

    def __init__(self, method: nn.Module):
        super().__init__()
        self.method = method

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the stacked images."""
        return self.method(dict(zip(self.method.modalities, images.split(1, dim=1), strict=True))).logits


def benchmark_case(size: tuple[int, int, int]) -> Case:
    """A phantom brain under the names of the benchmark's task."""
    (brain,) = phantoms.brains(1, size=size)
    return Case("case", dict(zip(task_of(4).modalities, brain.images.values(), strict=True)))


def predicted(side: str, folder: str, channels: list[int], window: int, precision: str,
              threads: int) -> dict[str, float]:
    """One side's whole prediction of the files in a folder, for a process of its own; seconds of all and the network.

    Args:
        side: "ours", or a name of `PEERS`.
    """
    torch.set_num_threads(threads)
    task, folder = task_of(4, CLASSES), Path(folder)
    method = made("early_fusion", 4, channels, CLASSES).eval()
    files = {name: folder / f"{name}.nii.gz" for name in task.modalities}
    size, listed = (window,) * 3, [*map(str, files.values())]
    if side == "ours":
        run = own_prediction(Predictor(method, task, size, device="cpu", precision=precision), files, folder)
    elif side == "MONAI's SlidingWindowInferer":
        run = peers.monai_prediction(Stacked(method), listed, folder, size,
                                     machine.choose_precision(torch.device("cpu"), precision))
    else:
        run = peers.nnunet_prediction(Stacked(method), listed, folder, CLASSES, size)
    seconds: list[float] = []
    with network_time(method, seconds):
        begun = time.perf_counter()
        run()
        total = time.perf_counter() - begun
    return {"seconds": total, "network": sum(seconds), "windows": len(seconds)}


def own_prediction(predictor: Predictor, files: Mapping[str, Path], folder: Path) -> Callable[[], None]:
    """Ours, ready to run."""
    def run() -> None:
        prediction = predictor(Case("case", files), attention=False, contributions=False)
        volumes.write(folder / "ours.nii.gz", prediction.labels, prediction.affine)

    return run


@contextmanager
def network_time(method: nn.Module, seconds: list[float]):
    """Append the seconds of every call of the method's forward."""
    forward = method.forward

    def timed_forward(images: dict[str, Tensor]):
        begun = time.perf_counter()
        answer = forward(images)
        finished(answer.logits.device)
        seconds.append(time.perf_counter() - begun)
        return answer

    method.forward = timed_forward
    yield
    del method.forward


def from_files(settings: Settings) -> Iterable[Row]:
    """Our whole prediction against each peer's, time and peak memory, and over the bare network's time."""
    what = (f"prediction of {'x'.join(map(str, settings.case))}, 4 modalities, window {settings.window}^3, from files "
            "to a saved label map, same network")
    given = {"channels": list(settings.channels), "window": settings.window, "precision": settings.precision,
             "threads": torch.get_num_threads()}
    there = [name for name, (package, _) in PEERS.items() if installed(package)]
    with tempfile.TemporaryDirectory() as folder:
        for name, image in benchmark_case(settings.case).images.items():
            volumes.write(Path(folder) / f"{name}.nii.gz", np.asarray(image.dataobj), image.affine)
        found = apart_in_turn({side: (MODULE, "predicted", {**given, "side": side, "folder": folder})
                               for side in ("ours", *there)}, settings.pairs)
    values = {side: {key: [one[key] for one in ones] for key in ones[0]} for side, ones in found.items()}
    count = f"{found['ours'][0]['windows']} windows"
    for name, (package, goal) in PEERS.items():
        if name not in there:
            yield without_peer("prediction", what, package, name, goal)
            continue
        note = f"ours {count}, theirs {found[name][0]['windows']}; a process for each side and turn"
        yield compared("prediction", what, "ours", name, values["ours"]["seconds"], values[name]["seconds"], "s", goal,
                       note=note)
        yield compared("prediction", f"{what}: peak memory", "ours", name, values["ours"]["peak_mib"],
                       values[name]["peak_mib"], "MiB", 0.7 if package == "nnunetv2" else None, note=note)
    yield compared("prediction", f"{what}: all of it over the network's own time", "from files to file", "network",
                   values["ours"]["seconds"], values["ours"]["network"], "s", 1.03, note=count)


def over_network(settings: Settings) -> Iterable[Row]:
    """Prediction of a prepared case over the time of its forwards alone."""
    method = made("early_fusion", 4, settings.channels, CLASSES)
    predictor = Predictor(method, task_of(4, CLASSES), (settings.window,) * 3, precision=settings.precision)
    prepared = prepare(benchmark_case(settings.case), predictor.task)
    own, network = [], []
    for turn in range(settings.pairs + 1):
        seconds: list[float] = []
        with network_time(method, seconds):
            begun = time.perf_counter()
            _ = predictor.predict(prepared, attention=False, contributions=False).classes
            total = time.perf_counter() - begun
        if turn:
            own.append(total)
            network.append(sum(seconds))
    yield compared("over_network", "prediction of a prepared case, to its label map, over the network's own time",
                   "prediction", "network", own, network, "s", 1.03, note=f"{len(seconds)} windows")


def all_subsets(settings: Settings) -> Iterable[Row]:
    """All 15 subsets of a case, and one scan of four, against one prediction from all; label maps, prepared case."""
    task = task_of(4, CLASSES)
    predictor = Predictor(made("maml", 4, settings.channels, CLASSES), task, (settings.window,) * 3,
                          precision=settings.precision)
    prepared = prepare(benchmark_case(settings.case), task)
    subsets = list(subsets_of(task.modalities))

    def one(present: tuple[str, ...]) -> Callable[[], None]:
        return lambda: predictor.predict(prepared, present, attention=False, contributions=False).classes

    def sweep() -> None:
        for _, prediction in predictor.sweep(prepared, subsets):
            _ = prediction.classes

    one(task.modalities[:1])()      # warms up; the others take minutes
    times = settings.in_turn({f"all {len(subsets)} subsets": sweep, "one scan": one(task.modalities[:1]),
                         "all four scans": one(task.modalities)}, warm=0)
    where = f"MAML, N=4, {'x'.join(map(str, settings.case))}, window {settings.window}^3, prepared case to label maps"
    yield timed("subsets", where, f"all {len(subsets)} subsets", "all four scans", times, 2.4)
    yield timed("subsets", where, "one scan", "all four scans", times, 0.20)


def in_the_box(settings: Settings) -> Iterable[Row]:
    """Whether cropping to the non-zero box changes labels inside the body: share of voxels that are the same.

    Of a phantom that the network, a quarter as wide as the others so that its training takes minutes, was not trained
    on. The note says how well it was segmented both ways: windows of the whole volume that are mostly air are unlike
    anything in training, and instance norm passes that on to the voxels of the body in them.
    """
    size, steps = (settings.size,) * 3, settings.pairs * 80
    channels = [max(2, width // 4) for width in settings.channels[:4]]
    task, (case, *others) = TASKS["brats2021"], phantoms.brains(4, size=settings.case)
    torch.manual_seed(0)
    method = METHODS["early_fusion"](task.modalities, task.classes, channels=channels)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(method, folder, task, patch_size=size, batch_size=settings.batch_size, epochs=1,
                          steps_per_epoch=steps, learning_rate=3e-3, schedule="one-cycle", precision=settings.precision)
        trainer.fit(others)
    prepared = prepare(case, trainer.task)
    inside = np.any([image != 0 for image in uncropped(prepared).images.values()], axis=0)
    predictor = Predictor(method, trainer.task, size, precision=settings.precision)
    cropped, whole = (predictor.predict(one, attention=False, contributions=False).classes
                      for one in (prepared, uncropped(prepared)))
    truth = task.encode(np.asarray(case.label.dataobj))
    same = float((cropped == whole)[inside].mean())
    scores = {name: "/".join(f"{100 * dice(task.region(found, name), task.region(truth, name)):.0f}"
                             for found in (cropped, whole)) for name in task.regions}
    yield Row("box", "labels inside the body, cropped to the box against every window of "
              f"{'x'.join(map(str, settings.case))}, window {settings.size}^3", "same voxels", "", same, unit="share",
              ratio=same, goal=0.999, at_least=True, pairs=1,
              note=f"after {steps} steps on other phantoms, widths {channels}; Dice cropped/whole {scores}")


def uncropped(case: PreparedCase) -> PreparedCase:
    """The case on the whole grid of its files, zeros around the box; its axes are RAS+ and its spacing the task's."""
    grid = case.grid
    images = {name: grid.to_file(image) for name, image in case.images.items()}
    shape = next(iter(images.values())).shape
    whole = Grid(grid.shape, grid.affine, tuple((0, n) for n in shape), shape)
    return replace(case, images=images, grid=whole)


CASES = 4


def against_one_by_one(settings: Settings) -> Iterable[Row]:
    """Files to files, all maps kept: a shard with its manifests and checksums, against a loop without."""
    task = task_of(4)
    brains = [replace(brain, images=dict(zip(task.modalities, brain.images.values(), strict=True)), label=None)
              for brain in phantoms.brains(CASES, size=settings.window)]
    with TemporaryDirectory() as name:
        folder = Path(name)
        cases = find_cases(write_cases(brains, folder / "cases", task=task), task)
        predictor = Predictor(made("maml", 4, settings.channels), task, (settings.window,) * 3,
                              device=str(settings.device), precision=settings.precision)

        def sharded() -> None:
            shutil.rmtree(folder / "sharded", ignore_errors=True)
            predict_cases(predictor, cases, folder / "sharded").check()

        def one_by_one() -> None:
            for case in cases:
                predictor(case).save(folder / "plain" / case.id)

        timings = settings.in_turn({"sharded": sharded, "one by one": one_by_one})
    own, its = ([60 * CASES / one for one in timings.seconds[side]["wall"]] for side in ("sharded", "one by one"))
    yield compared("sharding", f"{CASES} cases of {settings.window}^3, 4 scans, from files to files with all maps",
                   "sharded", "one by one", own, its, "cases a minute", at_least=True,
                   note="the shard also writes checksums of its inputs; on a CPU the network has all cores")


Masks = list[tuple[np.ndarray, np.ndarray]]
METRICS: dict[str, tuple[str, Callable]] = {"MONAI": ("monai", peers.monai_metrics),
                                          "medpy": ("medpy", peers.medpy_metrics)}
GOALS = {"BraTS": {"MONAI": 0.25, "medpy": 0.02}, "liver": {"MONAI": 0.25, "medpy": 0.02},
         "small tumour": {"MONAI": 0.01, "medpy": 0.02}}


def metrics_against_peers(settings: Settings) -> Iterable[Row]:
    """Three regions of a brain, a large liver and a small tumour in it, against each peer."""
    for name, (masks, spacing_mm) in masks_of(settings).items():
        shape = "x".join(map(str, masks[0][0].shape))
        what = f"Dice + ASSD + HD95, {name} {shape}, {len(masks)} region{'s' if len(masks) > 1 else ''}"
        goals = {peer: (package, GOALS[name][peer]) for peer, (package, _) in METRICS.items()}

        def measured(peer: str, goal: float, masks: Masks = masks, spacing_mm: Sequence[float] = spacing_mm,
                     what: str = what) -> Row:
            values: dict[str, list[list[float]]] = {}

            def side(one: str, compute: Callable, values: dict = values, masks: Masks = masks) -> Callable[[], None]:
                compute(*blob((8, 8, 8), 0.3), spacing_mm)      # imports; the masks need no turn to warm up
                return lambda: values.update({one: [compute(*pair, spacing_mm) for pair in masks]})

            times = settings.in_turn({"ours": side("ours", own_metrics), peer: side(peer, METRICS[peer][1])}, warm=0)
            return timed("metrics", what, "ours", peer, times, goal, difference(values["ours"], values[peer], peer))

        yield from against(goals, measured, "metrics", what)


def own_metrics(answer: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float]) -> list[float]:
    """Dice, ASSD and HD95 in mm by ours."""
    return [one.value for one in measure(answer, truth, spacing_mm, voxels=False)]


def difference(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], peer: str) -> str:
    """How far the values of the regions lie apart where the definitions agree (medpy pools HD95)."""
    agreeing = slice(None) if peer == "MONAI" else slice(2)
    largest = np.abs(np.subtract(ours, theirs)[:, agreeing]).max()
    return f"values differ by at most {largest:.0e}" + ("; medpy pools HD95, not compared" if peer == "medpy" else "")


def masks_of(settings: Settings) -> dict[str, tuple[Masks, tuple[float, float, float]]]:
    """Name -> (answer, truth) of each region, and spacing in mm; an answer is a truth that moved, and an island."""
    task = TASKS["brats2021"]
    (brain,) = phantoms.brains(1, size=settings.case)
    classes = task.encode(np.asarray(brain.label.dataobj))
    regions = [task.region(classes, name) for name in task.regions]
    return {"BraTS": ([(moved(region), region) for region in regions], (1.0, 1.0, 1.0)),
            "liver": ([blob(settings.liver, 0.29)], (0.8, 0.8, 1.5)),
            "small tumour": ([blob(settings.liver, 0.02)], (0.8, 0.8, 1.5))}


def blob(shape: Sequence[int], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A bumpy ellipsoid, its radius a share of each axis, and the same one moved."""
    axes = np.ogrid[tuple(slice(-0.5, 0.5, complex(0, n)) for n in shape)]
    bumps = 1 + 0.1 * np.sin(40 * axes[0]) * np.sin(40 * axes[1]) * np.sin(40 * axes[2])
    truth = sum(axis**2 for axis in axes) < (radius * bumps) ** 2
    return moved(truth), truth


def moved(mask: np.ndarray) -> np.ndarray:
    """The mask two voxels further on one axis, and a false positive of 27 voxels in a corner of its box."""
    answer = np.roll(mask, 2, axis=0)
    if mask.any():
        corner = np.argwhere(mask).min(0)
        answer[tuple(slice(n, n + 3) for n in corner)] = True
    return answer
