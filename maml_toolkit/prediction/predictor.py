"""A trained method over a case of any size: overlapping windows, Gaussian weights, answers on the file's own grid.

    logits(x) = sum_w g(x - w) logits_w(x) / sum_w g(x - w),     g Gaussian with sigma = window / 8

Attention maps and contributions are averaged the same way; both the average and the joint head are linear, so
contributions still add up to the logits.

References:
    nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, Isensee et
    al., Nature Methods 2021, https://doi.org/10.1038/s41592-020-01008-z (windows and weights)
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maml_toolkit import __version__
from maml_toolkit.data.cases import Case, expect_cases
from maml_toolkit.data.prepared import PreparedCase
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.data.tasks import Task
from maml_toolkit.methods import Method
from maml_toolkit.methods.method import Segmentation, three
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.runs import Run
from maml_toolkit.prediction.saved import MANIFEST, is_done, made_from
from maml_toolkit.system import machine
from maml_toolkit.system.errors import MissingModalityError, warn_of

POLICIES = ("fused", "heads")
"""Who answers: what the method makes of all modalities together, or the mean of what each says alone."""

MEMORY_REMEDY = ("give a smaller window= or at_once=1, or ask for no maps (attention=False and contributions=False; in "
                 "a job maps=False or maps=0); in training, take a smaller patch_size or batch_size")


class Predictor:
    """Runs a method over whole cases.

    Args:
        method: trained.
        task: of the cases.
        window: voxels on each axis of the working grid; the patch size of the training.
        overlap: of neighbouring windows, as a share of the window.
        device, precision: as in `machine.choose_device` and `machine.choose_precision`.
        run: name that tables show.
        policy: "fused" for the method's own answer, "heads" for the mean probability of what each modality says
            alone, where the method knows.
        at_once: how many subsets' volumes a sweep holds; with more subsets the case is read again for the next ones,
            so that memory does not grow with their number.
        saved: a folder of predictions that `predict` wrote (of subsets: predictions_t1+t2 beside predictions). What
            lies there and is what this Predictor would make is read and not made again.

    Raises:
        ValueError: a window that the method cannot take, an overlap outside 0 to 1, or another policy.
    """

    def __init__(self, method: Method, task: Task, window: Sequence[int], overlap: float = 0.5,
                 device: str = "auto", precision: str = "auto", run: str = "", policy: str = "fused",
                 at_once: int = 16, saved: str | Path | None = None):
        self.device = machine.choose_device(device)
        self.precision = machine.choose_precision(self.device, precision)
        self.method, self.task, self.window, self.overlap, self.run = method, task, three(window), overlap, run
        self.policy, self.at_once = check_policy(policy), at_once
        self.saved = None if saved is None else Path(saved)
        method.check_size(self.window)
        if not 0 <= overlap < 1 or at_once < 1:
            raise ValueError(f"found overlap={overlap} and at_once={at_once}, expected 0 <= overlap < 1 and at least 1")
        self.weights = gaussian(self.window).to(self.device)
        self.sums_on = self.device      # until its memory does not suffice

    @classmethod
    def load(cls, run: str | Path, checkpoint: str = "best", **settings) -> Predictor:
        """The method of a run folder, ready to predict.

        Args:
            run: folder that a Trainer wrote.
            checkpoint: "best" by validation (the newest where nothing was validated) or "newest".
            settings: other arguments of the Predictor; without a window it is the patch of the training.

        Raises:
            FileNotFoundError: there is no such run, or it has no checkpoint yet.
        """
        run = Run(run)
        choose = {"best": checkpoints.best, "newest": checkpoints.newest}.get(checkpoint)
        if choose is None:
            raise ValueError(f"found checkpoint={checkpoint!r}, expected 'best' or 'newest'")
        path = choose(run.checkpoints)
        if path is None:
            raise FileNotFoundError(f"no checkpoint was found in {run.checkpoints.absolute()}; train first, or name "
                                    "the folder that was given to the Trainer as run=, from the current folder")
        window = settings.pop("window", None) or run.settings["trainer"]["patch_size"]
        return cls(checkpoints.load(path), Task.from_json(run.settings["task"]), window, run=run.name, **settings)

    def settings(self) -> dict[str, Any]:
        """All that changes an answer and is no case's, as plain values: weights, task, windows, precision, policy."""
        return json.loads(json.dumps({
            "toolkit": __version__, "method": self.method.name, "weights": checkpoints.fingerprint(self.method),
            "task": self.task.to_json(), "window": self.window, "overlap": self.overlap,
            "precision": str(self.precision).removeprefix("torch."), "policy": self.policy}))

    def __call__(self, case: Case, present: str | Iterable[str] | None = None, attention: bool = True,
                 contributions: bool = True) -> Prediction:
        """Segment a case.

        Args:
            case: its files are read, checked and preprocessed here.
            present: the modalities to use; all that both the case and the method have when left out.
            attention, contributions: whether these maps are kept, where the method has them.

        Raises:
            DataError: a file that cannot be used.
            MissingModalityError: modalities that the case lacks or the method does not accept.
        """
        return self.predict(case, present, attention, contributions)

    def wanted(self, case: Case | PreparedCase, present: str | Iterable[str] | None = None) -> tuple[str, ...]:
        """The modalities to use of a case, in the method's order; said before any file is read."""
        expect_cases([case], PreparedCase)
        if present is None:
            present = set(case.images) & set(self.method.modalities)
        try:
            wanted = self.method.present({present} if isinstance(present, str) else present)
        except MissingModalityError as error:
            raise MissingModalityError(error.problem, error.remedy, case=case.id) from None
        if lacking := [name for name in wanted if name not in case.images]:
            raise MissingModalityError(f"it lacks {', '.join(lacking)}; it has {', '.join(case.images)}",
                                       "Ask for modalities that it has.", case=case.id)
        return wanted

    def prepared(self, case: Case) -> PreparedCase:
        """The case as the network reads it, its files read and checked; its label, if it has one, stays unread.

        Raises:
            DataError: a file that cannot be used.
        """
        prepared = prepare(replace(case, label=None), self.task)
        warn_of(prepared.oddities)
        return prepared

    def predict(self, case: Case | PreparedCase, present: str | Iterable[str] | None = None, attention: bool = True,
                contributions: bool = True) -> Prediction:
        """Segment a case, prepared or not; the arguments are those of calling the Predictor."""
        ((_, prediction),) = self.sweep(case, [self.wanted(case, present)], None, attention, contributions)
        return prediction

    def subsets(self, case: Case | PreparedCase, subsets: Iterable[Iterable[str]] | None = None,
                attention: bool = False, contributions: bool = False) -> Prediction:
        """Segment a case from several subsets of its modalities, its windows read and the streams run once.

        Args:
            subsets: which; every non-empty one that the method accepts when left out.
            case, attention, contributions: as for calling the Predictor.

        Returns:
            The prediction from the largest subset; its `subsets` holds those from all.

        Raises:
            DataError, MissingModalityError: as for calling the Predictor.
        """
        if subsets is None:
            subsets = self.method.answerable(set(case.images)) or [case.images]    # what is refused is refused by name
        answers = {subset: prediction for (subset, _), prediction in
                   self.sweep(case, subsets, None, attention, contributions)}
        return replace(answers[max(answers, key=len)], subsets=answers)

    def sweep(self, case: Case | PreparedCase, subsets: Iterable[Iterable[str]],
              policies: str | Sequence[str] | None = None, attention: bool = False,
              contributions: bool = False) -> Iterator[tuple[tuple[frozenset[str], str], Prediction]]:
        """(subset, policy) and prediction, one after the other; windows are read and streams run once for `at_once`.

        A subset or a policy that is listed twice is answered once. Of a case that is not prepared, what is `saved` is
        read, and nothing else of the case where that is all.

        Raises:
            DataError, MissingModalityError: as for calling the Predictor, the latter before anything is computed.
        """
        policies = [self.policy] if policies is None else check_policies(policies)
        subsets = list(dict.fromkeys(frozenset(self.wanted(case, subset)) for subset in subsets))
        keys = list(itertools.product(subsets, policies))
        maps = [name for name, asked in (("attention", attention), ("contributions", contributions)) if asked]
        found = {} if isinstance(case, PreparedCase) else self._saved(case, keys, maps)
        lacking = list(dict.fromkeys(subset for subset, policy in keys if (subset, policy) not in found))
        computed = self._computed(case, lacking, policies, attention, contributions)
        for key in keys:
            while key not in found:
                found.update([next(computed)])
            yield key, found.pop(key)

    def _saved(self, case: Case, keys: Sequence[tuple[frozenset[str], str]],
               maps: Sequence[str]) -> dict[tuple[frozenset[str], str], Prediction]:
        """The predictions from some subsets by some policies that were saved, and that would be made again."""
        places = {}
        for subset, policy in keys if self.saved else ():
            names = self.wanted(case, subset)
            beside = self.saved.with_name(f"{self.saved.name}_{'+'.join(names)}")
            places |= {(subset, policy, folder / case.id): names for folder in (self.saved, beside)
                       if (folder / case.id / MANIFEST).exists()}
        if not places:
            return {}
        settings, found = self.settings() | {"maps": list(maps)}, {}
        wanted = made_from(case, self.task, (), settings)
        for (subset, policy, folder), names in places.items():
            if is_done(folder, wanted | {"modalities": list(names), "settings": settings | {"policy": policy}}, True):
                found[subset, policy] = replace(Prediction.load(folder), run=self.run)
        return found

    def _computed(self, case: Case | PreparedCase, subsets: Sequence[frozenset[str]],
                  *asked: Any) -> Iterator[tuple[tuple[frozenset[str], str], Prediction]]:
        """The predictions of the network; an unprepared case is read when the first is wanted."""
        prepared = case if isinstance(case, PreparedCase) else self.prepared(case)
        for first in range(0, len(subsets), self.at_once):
            yield from self._together(prepared, subsets[first:first + self.at_once], *asked).items()

    def _together(self, case: PreparedCase, *asked: Any) -> dict[tuple[frozenset[str], str], Prediction]:
        """The predictions from some subsets; where a GPU cannot hold the sums over windows, the computer does."""
        with (machine.memory_for(f"a window of {self.window}", self.device, MEMORY_REMEDY),
              machine.fastest_convolutions(search=False)):
            try:
                return self._over_windows(case, *asked)
            except (RuntimeError, MemoryError) as error:
                if self.sums_on.type == "cpu" or not machine.is_out_of_memory(error):
                    raise
            warnings.warn(f"case {case.id} does not fit into the memory of {self.sums_on}; its sums over windows are "
                          "kept in the computer's memory from now on, which is slower", stacklevel=2)
            self.sums_on = torch.device("cpu")
            machine.free_memory(self.device)
            return self._over_windows(case, *asked)

    @torch.inference_mode()
    def _over_windows(self, case: PreparedCase, subsets: Sequence[frozenset[str]], policies: Sequence[str],
                      attention: bool, contributions: bool) -> dict[tuple[frozenset[str], str], Prediction]:
        """Every window is read, and every stream run, once for all subsets."""
        method = self.method.to(self.device).eval()
        names = [name for name in method.modalities if any(name in subset for subset in subsets)]
        images, margins = padded(torch.stack([torch.from_numpy(np.array(case.images[name])) for name in names]),
                                 self.window, [case.outside.get(name, 0.0) for name in names])
        total = torch.zeros(images.shape[1:], device=self.sums_on)
        sums: dict[tuple[frozenset[str], str], dict[str, Tensor]] = {}
        biases: dict[tuple[frozenset[str], str], Tensor | None] = {}
        if self.sums_on == self.device:
            images = images.to(self.device)
        weights = self.weights.to(self.sums_on)
        for place in windows(images.shape[1:], self.window, self.overlap):
            part = images[(slice(None), *place)].to(self.device)
            window = {name: part[None, None, i] for i, name in enumerate(names)}
            with machine.autocast(self.device, self.precision):
                for subset, answer in method.sweep(window, subsets):
                    for policy in policies:
                        by = answer if policy == "fused" else answer.by_heads()
                        self._add(sums.setdefault((subset, policy), {}), by, place, images.shape[1:], attention,
                                  contributions)
                        biases[subset, policy] = by.bias
            total[place] += weights
        inside = tuple(slice(before, n - after) for (before, after), n in zip(margins, total.shape, strict=True))
        found = {}
        for key, kept in sums.items():
            maps = {name: (values / total)[(..., *inside)].cpu().numpy() for name, values in kept.items()}
            bias = None if biases[key] is None else biases[key].float().cpu().numpy()
            found[key] = Prediction(case.id, self.task, method.present(key[0]), case.grid, maps, bias,
                                    method=method.name, run=self.run, policy=key[1])
        return found

    def _add(self, sums: dict[str, Tensor], answer: Segmentation, place: tuple[slice, ...], shape: Sequence[int],
             attention: bool, contributions: bool) -> None:
        """One window's answer, weighted, onto the sums over windows."""
        found = {"logits": answer.logits[0]}
        if attention:
            found |= {f"attention/{name}": one[0].mean(0) for name, one in answer.attention.items()}
        if contributions:
            found |= {f"contribution/{name}": one[0] for name, one in answer.contributions.items()}
        for name, values in found.items():
            if name not in sums:
                sums[name] = torch.zeros((*values.shape[:-3], *shape), device=self.sums_on)
            sums[name][(..., *place)] += (values.float() * self.weights).to(self.sums_on)


def check_policy(policy: str) -> str:
    """The policy, if it is one.

    Raises:
        ValueError: it is none.
    """
    if policy not in POLICIES:
        raise ValueError(f"found policy={policy!r}, expected one of {', '.join(POLICIES)}")
    return policy


def check_policies(policies: str | Iterable[str]) -> list[str]:
    """The policies, or the one, each once.

    Raises:
        ValueError: one is none.
    """
    return list(dict.fromkeys(map(check_policy, [policies] if isinstance(policies, str) else policies)))


def gaussian(window: Sequence[int]) -> Tensor:
    """Weights of a window, 1 in its middle, sigma an eighth of each side; never 0, so that every voxel counts."""
    axes = [torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in window]
    return torch.einsum("i,j,k->ijk", *axes).clamp_min(1e-4)


def windows(shape: Sequence[int], window: Sequence[int], overlap: float) -> Iterator[tuple[slice, ...]]:
    """Places of windows that cover a volume evenly, overlapping at least as told."""
    starts = []
    for n, size in zip(shape, window, strict=True):
        count = 1 + int(np.ceil((n - size) / max(1, size * (1 - overlap))))
        starts.append(sorted({round(start) for start in np.linspace(0, n - size, count)}))
    for corner in itertools.product(*starts):
        yield tuple(slice(start, start + size) for start, size in zip(corner, window, strict=True))


def padded(images: Tensor, window: Sequence[int], outside: Sequence[float]) -> tuple[Tensor, list[tuple[int, int]]]:
    """Volumes (modalities, depth, height, width), around each its value for outside up to the window's size, and how
    many voxels of it.
    """
    lacking = [max(0, size - n) for size, n in zip(window, images.shape[1:], strict=True)]
    margins = [(n // 2, n - n // 2) for n in lacking]
    flat = [n for pair in reversed(margins) for n in pair]
    if not any(flat):
        return images, margins
    return torch.stack([torch.nn.functional.pad(image, flat, value=value)
                        for image, value in zip(images, outside, strict=True)]), margins
