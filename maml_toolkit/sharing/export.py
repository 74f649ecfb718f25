"""A trained network as an ONNX file, for programs without torch: one set of modalities, one window, float32.

    inputs    one for each modality present, by its name       (1, 1, depth, height, width)
    outputs   logits                                           (1, channels, depth, height, width)
              attention_<modality>, if asked for               (1, depth, height, width), mean of A_i over channels
              contribution_<modality>, if asked for            (1, channels, depth, height, width)

A channel is a class, or a region where the network was trained on regions. The modalities are fixed because a missing
one is not computed: each set is a network of its own, a file of its own. The window is fixed too, to that of the
training: instance norms take their statistics over the window, so the answers in another size are answers of another
network, and runtimes plan their memory from fixed sizes. What is longer than the window is covered by windows, averaged
with Gaussian weights, as the Predictor does; softmax, or of regions the sigmoid, last. With the policy "by-size" the
file mixes the answers of a window, the Predictor those of the whole case: the same in one window. The Predictor's mean
over mirror images, and the parts that it drops as too small, are left to the program too.

The file says in its metadata (JSON values) what a program must know to use it: `modalities`, `classes`, `labels`,
`regions`, `train_on`, `channels` (their names), `painted` (the class that each puts into a label map), `spacing_mm`,
`orientation`, `window`, `overlap`, `mirror` (axes of the window), `smallest_mm3` (by region), `intensities`,
`normalisation`, `bias`, `method`, `policy`, `share` (of the heads, where the policy is "by-size"), `opset`,
`difference` (the largest found against torch) and `version`. It is run by onnxruntime alone:

    import json, numpy, onnxruntime

    session = onnxruntime.InferenceSession("liver.onnx")
    facts = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    patch = {name: numpy.zeros((1, 1, *facts["window"]), "float32") for name in facts["modalities"]}   # normalised
    (logits,) = session.run(["logits"], patch)
    classes = logits[0].argmax(0)                                       # 0 is facts["classes"][0]

Of a network that was trained on regions the label map is painted, one region over the other:

    classes = numpy.zeros(facts["window"], int)
    for inside, painted in zip(logits[0] > 0, facts["painted"]):
        classes[inside] = painted
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from maml_toolkit.data.preprocessing import PERCENTILES
from maml_toolkit.methods import Method
from maml_toolkit.methods.method import Segmentation
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.system.errors import imported, silenced
from maml_toolkit.system.files import writable_file, write_whole

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18
"""The oldest that torch writes by itself; it has every operator that the methods need, and is widely read."""

AGREEMENT = 1e-4
"""By how much of an output's largest value, or of 1, onnxruntime may differ from torch; float32 leaves about 1e-5."""

LARGEST_BYTES = 2**31 - 1
"""A protobuf, and so an ONNX file, holds no more."""

LOUD = ("torch.onnx._internal.exporter._registration", "onnxscript.optimizer._constant_folding")
"""Loggers of warnings about which nobody can do anything."""

NORMALISATION = {
    "mr": "clip to {} % of this scan's non-zero voxels, then zero mean and unit variance over them; 0 stays 0",
    "ct": "clip to {} % of this scan's voxels, then zero mean and unit variance over them",
    "none": "taken as it is",
}
"""The recipe of data/preprocessing.py in words, by the kind of intensities."""


def export_onnx(predictor: Predictor, path: str | Path, modalities: str | Iterable[str] | None = None, *,
                attention: bool = False, contributions: bool = False) -> dict[str, float]:
    """Write the network of a Predictor for these modalities, once onnxruntime has agreed with torch about it.

    Args:
        predictor: its method, window and policy are exported; `Predictor.load(run, window=…)` takes another window.
        path: of the .onnx file; written whole or not at all.
        modalities: those that will be present; all of the method's when left out.
        attention, contributions: whether these are outputs too.

    Returns:
        For each output the largest absolute difference between onnxruntime and torch, both in float32 on the CPU, on a
        window of random numbers of zero mean and unit variance.

    Raises:
        ModuleNotFoundError: the extra `onnx` is not installed.
        MissingModalityError: modalities that the method does not know or does not answer from.
        ValueError: the method has no such maps, its code cannot be exported, or the file would be larger than 2 GB.
        ArithmeticError: onnxruntime computes something else.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):    # torch writes with the first two
        imported(name, "onnx", "the export needs")
    if predictor.others:
        raise ValueError(f"found {len(predictor.members)} runs that answer together, expected one: a file holds one "
                         "network; export each of them, and average their logits")
    path, method = Path(path), predictor.method
    given = method.modalities if modalities is None else [modalities] if isinstance(modalities, str) else modalities
    names = method.present(given)
    writable_file(path)
    predictor.answers_by(predictor.policy, [len(names)])
    share = predictor.fitted.by_size[len(names)] if predictor.policy == "by-size" else 0.0
    network = Network(method, names, predictor.policy, share, attention, contributions)
    generator = torch.Generator().manual_seed(0)
    patch = {name: torch.randn(1, 1, *predictor.window, generator=generator) for name in names}
    with torch.no_grad():
        answer = network.segmentation(patch)
        outputs = network.outputs(answer)
    for kind, asked in (("attention", attention), ("contribution", contributions)):
        if asked and not any(name.startswith(f"{kind}_") for name in outputs):
            raise ValueError(f"{method.name} has no {kind} from {'+'.join(names)}; export it without")
    model = _converted(network, patch, list(outputs))
    differences = _differences(model, patch, outputs)
    _describe(model, predictor, names, share, answer, differences)
    write_whole(path, model.SerializeToString())
    return differences


class Network(nn.Module):
    """A method for one set of modalities, on the CPU: tensors in, tensors out, in a fixed order.

    Args:
        method: it is copied and stays as it is.
        names: the modalities, in the order of the inputs.
        policy: who answers, of `answering.POLICIES`.
        share: of the heads, where the policy is "by-size".
        attention, contributions: whether they are outputs too.
    """

    def __init__(self, method: Method, names: tuple[str, ...], policy: str, share: float, attention: bool,
                 contributions: bool):
        super().__init__()
        self.method = copy.deepcopy(method).cpu().float()
        self.names, self.policy, self.share = names, policy, share
        self.attention, self.contributions = attention, contributions
        self.eval()

    def forward(self, *images: Tensor) -> tuple[Tensor, ...]:
        """The outputs from the images, in their order."""
        return tuple(self.outputs(self.segmentation(dict(zip(self.names, images, strict=True)))).values())

    def segmentation(self, images: dict[str, Tensor]) -> Segmentation:
        """The answer of whoever answers."""
        answer = self.method(images)
        if self.policy == "heads":
            return answer.by_heads()
        return answer.by_size(self.share) if self.policy == "by-size" else answer

    def outputs(self, answer: Segmentation) -> dict[str, Tensor]:
        """What was asked for of an answer, by the name of the output."""
        found = {"logits": answer.logits}
        if self.attention:
            found |= {f"attention_{name}": one.mean(1) for name, one in answer.attention.items()}
        if self.contributions:
            found |= {f"contribution_{name}": one for name, one in answer.contributions.items()}
        return found


def _converted(network: Network, patch: dict[str, Tensor], outputs: list[str]) -> ModelProto:
    """The network as ONNX, without the traces that the exporter leaves of this machine's folders."""
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(network, tuple(patch.values()), dynamo=True, opset_version=OPSET, verbose=False,
                                        input_names=list(patch), output_names=outputs)
    except torch.onnx.errors.OnnxExporterError as error:
        cause = str(error.__cause__ or error).partition("\n")[0]
        raise ValueError(f"the method {network.method.name} cannot be exported: {cause}. Its forward must not branch "
                         "on the values of tensors, and must be made of operators that ONNX has") from error
    size = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
    if size > LARGEST_BYTES:
        raise ValueError(f"the network has {size / 2**30:.1f} GB of weights and an ONNX file holds 2 GB; export fewer "
                         "modalities, or train with fewer channels")
    model = program.model_proto
    del model.metadata_props[:], model.graph.metadata_props[:]
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info,
                 *model.graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of itself: a deprecation, torchvision that is not there, what it did not fold."""
    with silenced(*LOUD, below=logging.ERROR), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*LeafSpec.*deprecated", category=FutureWarning)
        yield


def _differences(model: ModelProto, patch: dict[str, Tensor], outputs: dict[str, Tensor]) -> dict[str, float]:
    """The largest difference between onnxruntime and torch by output."""
    import onnx
    import onnxruntime

    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(list(outputs), {name: image.numpy() for name, image in patch.items()})
    differences = {}
    for (name, expected), got in zip(outputs.items(), found, strict=True):
        expected = expected.numpy()
        differences[name] = float(np.abs(got - expected).max())
        # not `>`: a difference that is no number is a difference too
        if not differences[name] <= AGREEMENT * max(1.0, float(np.abs(expected).max())):
            raise ArithmeticError(f"onnxruntime and torch differ by {differences[name]:.1e} in {name}, expected at "
                                  f"most {AGREEMENT:.0e} of its largest value; nothing was written. Try other "
                                  f"versions of torch ({torch.__version__}) or onnxruntime ({onnxruntime.__version__})")
    return differences


def _describe(model: ModelProto, predictor: Predictor, names: tuple[str, ...], share: float, answer: Segmentation,
              differences: dict[str, float]) -> None:
    """Write into the file what a program must know to use it."""
    task = predictor.task
    percentiles = " to ".join(map(str, PERCENTILES))
    facts = {
        "modalities": names, "classes": task.class_names, "labels": task.labels, "regions": task.regions,
        "train_on": task.train_on, "channels": task.answers.names, "painted": task.answers.painted,
        "spacing_mm": task.spacing_mm, "orientation": "RAS+", "window": predictor.window, "overlap": predictor.overlap,
        "mirror": predictor.mirror, "smallest_mm3": predictor.smallest_mm3(predictor.policy),
        "intensities": {name: task.intensities[name] for name in names},
        "normalisation": {name: NORMALISATION[task.intensities[name]].format(percentiles) for name in names},
        "bias": None if answer.bias is None else answer.bias.tolist(), "method": predictor.method.name,
        "policy": predictor.policy, "share": share, "opset": OPSET, "difference": differences,
        "version": version("maml_toolkit"),
    }
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False))
    model.producer_name, model.producer_version = "maml_toolkit", version("maml_toolkit")
    model.doc_string = "For research only; not a medical device."
