"""What a training step takes on a GPU, a row at a time into a JSON file; the most important rows first.

    python tests/gpu_rows.py build/gpu.json --seconds 300

A row that fails holds its error instead of figures. Rows that are in the file already are not measured again, so that
one whose GPU was lost in the middle can be called again.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
import traceback
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tiny_training import batch_of
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import held_batch, task_of
from benchmarks.training import made
from maml_toolkit.data.augmentation import Augmentation
from maml_toolkit.data.patches import Batch
from maml_toolkit.data.preprocessing import PreparedCase
from maml_toolkit.networks import execution
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.system import machine
from maml_toolkit.training.trainer import Trainer

CHANNELS, SIZE, BATCH = (32, 64, 128, 256, 320), 128, 2
WARM, STEPS = 3, 8
HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def waited():
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(run, warm=WARM, repeats=STEPS):
    """The median of the seconds of a call, each waited for."""
    for _ in range(warm):
        run()
    waited()
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        waited()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def peak(run):
    """GiB of the GPU that tensors held at most, and that torch had asked for."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run()
    waited()
    return {"peak GiB": round(torch.cuda.max_memory_allocated() / 2**30, 3),
            "reserved GiB": round(torch.cuda.max_memory_reserved() / 2**30, 3)}


def convolutions(precision, size, channels_last=False):
    """TFLOP/s of a 3x3x3 convolution at each width of the network, at that level's size."""
    kind, found = HALF[precision], {}
    layout = torch.channels_last_3d if channels_last else torch.contiguous_format
    for level, width in enumerate(CHANNELS):
        n = size >> level
        layer = torch.nn.Conv3d(width, width, 3, padding=1, bias=False).to(DEVICE, kind, memory_format=layout)
        features = torch.randn(BATCH, width, n, n, n, device=DEVICE).to(kind, memory_format=layout)
        with torch.inference_mode(), machine.fastest_convolutions(True):
            seconds = timed(lambda layer=layer, features=features: layer(features), repeats=20)
        found[f"{width} channels, {n}^3"] = round(2 * 27 * width**2 * BATCH * n**3 / seconds / 1e12, 2)
    return {"TFLOP/s": found, "best TFLOP/s": max(found.values())}


def norms(precision, size, compiled=False):
    """Milliseconds and GiB of a norm, forward and backward, at full resolution."""
    norm, found = execution.InstanceNorm(CHANNELS[0]).to(DEVICE), {}
    features = torch.randn(BATCH, CHANNELS[0], *(size,) * 3, device=DEVICE, dtype=HALF[precision])

    def in_short_groups(given):
        return functional.group_norm(given, CHANNELS[0], norm.weight.to(given.dtype), norm.bias.to(given.dtype))

    layers = {"instance_norm": (norm, {"cpu"}, True), "group_norm, autocast": (norm, {"cpu", "cuda"}, True),
              "group_norm in the short type": (in_short_groups, {"cpu"}, False)}
    if compiled:
        layers = {"compiled": (torch.compile(in_short_groups, dynamic=False), {"cpu"}, False)}
    for name, (layer, by_groups, cast) in layers.items():
        def run(layer=layer, cast=cast):
            given = features.detach().requires_grad_()
            with torch.autocast(DEVICE.type, dtype=given.dtype, enabled=cast):
                answer = layer(given)
            answer.backward(answer.detach())

        with grouped(by_groups):
            found[name] = {"ms": round(1e3 * timed(run), 3), **peak(run)}
    return found


@contextmanager
def grouped(devices):
    """A block in which norms on these types of device are computed by groups."""
    before, execution.BY_GROUPS = execution.BY_GROUPS, devices
    try:
        yield
    finally:
        execution.BY_GROUPS = before


def a_step(count, precision, size, by_groups=False, channels_last=False, augmentation=None, method="maml", own=None,
           **given):
    """A training step of so many modalities as the Trainer takes it: seconds, memory, FLOP/s."""
    torch.cuda.empty_cache()
    task = replace(task_of(count, 4), spacing_mm=(1, 1, 1))
    network = made(method, count, CHANNELS, **own or {})
    trainer = Trainer(network, "unused", task, patch_size=(size,) * 3, batch_size=BATCH, augmentation=augmentation,
                      precision=precision, device=str(DEVICE), **given)
    network.to(DEVICE).train()
    images, labels = held_batch(task, size, BATCH, DEVICE)
    if channels_last:
        network.to(memory_format=torch.channels_last_3d)
    batch = batch_of(task.modalities, augmentation, size).to(DEVICE) if augmentation else Batch.of(images, labels)
    (stage,) = network.stages()
    optimizer, number, before = trainer.optimizer(stage), 0, None
    marks, skipped = [], 0      # nothing is read before the next step is launched, as in the Trainer

    def step():
        nonlocal number, before, skipped
        launched = trainer.step(stage, batch, optimizer, 3e-4, number)
        number += 1
        if before is not None:
            skipped += before.found().skipped
        before = launched

    with grouped({"cpu", "cuda"} if by_groups else {"cpu"}), machine.fastest_convolutions(True):
        begun = time.perf_counter()
        step()
        waited()
        first = time.perf_counter() - begun
        for _ in range(WARM - 1):
            step()
        memory = peak(step)
        begun = time.perf_counter()
        for _ in range(STEPS):
            mark = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            mark[0].record()
            step()
            mark[1].record()
            marks.append(mark)
        launched_s = (time.perf_counter() - begun) / STEPS
        waited()
        seconds = (time.perf_counter() - begun) / STEPS
        alone = timed(step, warm=0, repeats=4)
    # counted without autocast's copies in a forward of half the batch, and not for what was compiled
    with FlopCounterMode(display=False) as counter, torch.no_grad(), machine.autocast(DEVICE, trainer.precision), \
            torch.compiler.set_stance("force_eager"):
        network({name: image[:1] for name, image in images.items()})
    work = 3 * BATCH * counter.get_total_flops()
    by_events = statistics.median(before.elapsed_time(after) for before, after in marks)
    return {"seconds": round(seconds, 4), "ms by events": round(by_events, 2),
            "seconds alone": round(alone, 4), "seconds until launched": round(launched_s, 4),
            "first step s": round(first, 2), "TFLOP a step": round(work / 1e12, 3),
            "TFLOP/s": round(work / seconds / 1e12, 2), "skipped": skipped, **memory}


def predicting(count, precision, size):
    """Seconds of a case of 240x240x155 voxels in windows, all modalities, with all maps."""
    task = replace(task_of(count, 4), spacing_mm=(1, 1, 1))
    predictor = Predictor(made("maml", count, CHANNELS), task, (size,) * 3, device=str(DEVICE), precision=precision)
    images = {name: torch.randn(240, 240, 155).numpy() for name in task.modalities}
    case = PreparedCase("scan", images, None, np.zeros((0, 4), int), None)
    found = {}
    for name, search in (("cuDNN as it is", False), ("cuDNN tried out", True)):
        before = machine.fastest_convolutions
        machine.fastest_convolutions = lambda search, kept=search, before=before: before(kept)
        try:
            found[name] = {"s": round(timed(lambda: predictor.predict(case), warm=1, repeats=2), 3)}
        finally:
            machine.fastest_convolutions = before
    return found | peak(lambda: predictor.predict(case))


def rows(size):
    """Name -> what measures it, the most important first."""
    found = {}
    for precision in HALF:
        found[f"convolution, {precision}"] = lambda precision=precision: convolutions(precision, size)
    for count, precision in ((2, "bfloat16"), (4, "bfloat16")):
        found[f"N={count}, {precision}"] = lambda n=count, p=precision: a_step(n, p, size)
    more = {"group norm": {"by_groups": True}, "recompute": {"recompute": True}}
    for count in (4, 2):
        for name, given in more.items():
            found[f"N={count}, bfloat16, {name}"] = lambda n=count, given=given: a_step(n, "bfloat16", size, **given)
    for count in (2, 4):
        found[f"N={count}, float16"] = lambda n=count: a_step(n, "float16", size)
    found["norms, bfloat16"] = lambda: norms("bfloat16", size)
    found["N=2, bfloat16, compile"] = lambda: a_step(2, "bfloat16", size, compile=True)
    drawn = Augmentation(rotation=1, scaling=1, elastic=1, gamma=1)
    found["N=4, bfloat16, augmented"] = lambda: a_step(4, "bfloat16", size, augmentation=drawn)
    found["N=4, bfloat16, channels last"] = lambda: a_step(4, "bfloat16", size, channels_last=True)
    found["convolution, bfloat16, channels last"] = lambda: convolutions("bfloat16", size, True)
    found["prediction, N=4, bfloat16"] = lambda: predicting(4, "bfloat16", size)
    found["norms, bfloat16, compiled"] = lambda: norms("bfloat16", size, compiled=True)
    found["N=4, bfloat16, compile"] = lambda: a_step(4, "bfloat16", size, compile=True)
    found["N=4, float32"] = lambda: a_step(4, "float32", size)
    found["N=4, bfloat16, subsets"] = lambda: a_step(4, "bfloat16", size,
                                                     own={"subset_weight": 1.0, "ranking_weight": 0.1})
    found["N=2, float16, compile"] = lambda: a_step(2, "float16", size, compile=True)
    found["N=4, bfloat16, compile, recompute"] = lambda: a_step(4, "bfloat16", size, compile=True, recompute=True)
    return found


def write(path, found):
    """The file as it stands, whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(found, indent=1))
    os.replace(fresh, path)


def about():
    """The card and the versions."""
    card = torch.cuda.get_device_properties(0)
    return {"card": card.name, "memory GiB": round(card.total_memory / 2**30, 1), "torch": torch.__version__,
            "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "python": platform.python_version(),
            "channels": CHANNELS, "batch": BATCH, "when": time.strftime("%Y-%m-%d %H:%M")}


def main():
    """Measure the rows that are not in the file, while there is time."""
    asked = argparse.ArgumentParser()
    asked.add_argument("out", type=Path)
    asked.add_argument("--seconds", type=float, default=300)
    asked.add_argument("--size", type=int, default=SIZE)
    asked.add_argument("--only", default="", help="rows with this in their name")
    asked = asked.parse_args()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    ends = float(os.environ.setdefault("GPU_ROWS_END", str(time.time() + asked.seconds)))
    found = json.loads(asked.out.read_text()) if asked.out.exists() else {"about": about() | {"size": asked.size}}
    write(asked.out, found)
    for name, measure in rows(asked.size).items():
        if name in found or asked.only not in name:
            continue
        if time.time() > ends:
            found[name] = {"left out": "no time"}
            continue
        found[name] = {"error": "the process ended"}
        write(asked.out, found)
        begun = time.time()
        try:
            found[name] = measure()
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}"[:500],
                           "where": traceback.format_exc(limit=-3)[-700:]}
        found[name]["took s"] = round(time.time() - begun, 1)
        write(asked.out, found)
        sys.stdout.write(f"{name}: {json.dumps(found[name])}\n")
        sys.stdout.flush()
        if "error" in found[name]:
            lost(found[name])
    best = {kind: found.get(f"convolution, {kind}", {}).get("best TFLOP/s") for kind in HALF}
    for name, one in found.items():
        kind = next((kind for kind in HALF if kind in name), None)
        if kind and best[kind] and "TFLOP a step" in one:
            one["share of the best convolution"] = round(one["TFLOP/s"] / best[kind], 3)
    write(asked.out, found)


def lost(row):
    """After an error: nothing, if the GPU still answers; else this program again, for the rows that are left."""
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        _ = torch.ones(1, device=DEVICE).sum().item()
    except Exception:
        os.execv(sys.executable, [sys.executable, *sys.argv])


if __name__ == "__main__":
    DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    main()
