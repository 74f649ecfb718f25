"""A trained method over a case of any size: overlapping windows, Gaussian weights, answers on the file's own grid.

    fused      sum_w g(x - w) logits_w(x) / sum_w g(x - w),     g Gaussian with sigma = window / 8
    heads      the same of log mean_{i in S} softmax(h_i)
    by-size    p(S) = (1 - a_|S|) softmax(fused) + a_|S| softmax(heads),     a from validation cases (kept.py)

with the sigmoid in place of the softmax where regions are trained on.

Attention maps and contributions are averaged the same way; both the average and the joint head are linear, so
contributions still add up to the log-odds against the background, over windows, mirror images and several runs
(windows.py). Not with the policy "by-size", a mixture of probabilities: its contributions are those of the fused part.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maml_toolkit import __version__
from maml_toolkit.data.cases import Case, expect_cases
from maml_toolkit.data.prepared import PreparedCase
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.data.tasks import Task
from maml_toolkit.methods import Method
from maml_toolkit.methods.method import three
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.answering import Answering, Key, check_policies
from maml_toolkit.prediction.kept import Fitted
from maml_toolkit.prediction.prediction import Prediction, check_smallest
from maml_toolkit.prediction.reusing import saved_answers
from maml_toolkit.prediction.runs import Run, same_in
from maml_toolkit.prediction.saved import named_maps
from maml_toolkit.prediction.typical import Typical
from maml_toolkit.prediction.windows import axes_of_training, flips, gaussian, mirrored_axes, padded, windows
from maml_toolkit.system import machine
from maml_toolkit.system.errors import DataError, MissingModalityError, warn_of
from maml_toolkit.system.files import as_json
from maml_toolkit.system.showing import Facts, Shown, edges, in_lines

MEMORY_REMEDY = ("give a smaller window= or at_once=1, or ask for no maps (attention=False and contributions=False; in "
                 "a job maps=False or maps=0); in training, take a smaller patch_size or batch_size")


class Predictor(Shown):
    """Runs a method over whole cases.

    Args:
        method: trained; or several, of the same modalities and classes, that answer together: the mean of their logits,
            and of the attention and the contributions that all of them have. One at a time is on the device, and
            memory holds the sums of one.
        task: of the cases.
        window: voxels on each axis of the working grid; the patch size of the training.
        overlap: of neighbouring windows, as a share of the window.
        device, precision: as in `machine.choose_device` and `machine.choose_precision`.
        run: name that tables show.
        policy: "fused" for the method's own answer, "heads" for the mean probability of what each modality says
            alone, where the method knows, "by-size" for the mixture of the two by the number of scans, once it was
            fitted (`evaluation.fit_policy`).
        at_once: how many subsets' volumes a sweep holds, with uncertainty those without one more scan too; with more
            subsets the case is read again for the next ones, so that memory does not grow with their number.
        saved: a folder of predictions that `predict` wrote (of subsets: predictions_t1+t2 beside predictions). What
            lies there and is what this Predictor would make is read and not made again.
        fitted: what is known from validation cases; `load` finds it in the checkpoint.
        mirror: axes of the working grid (0 left-right, 1 posterior-anterior, 2 inferior-superior) along which every
            window is turned around too, for the mean over all 2^k flips of k axes, at 2^k times the time; True for all
            axes, without left-right where a class of the task is on one side of the body.
        drop_small: region -> the volume in mm³ under which a connected part of it is dropped from the label map
            (prediction.py); True for the volumes that were learned for the policy (`evaluation.fit_smallest`). Logits,
            probabilities and maps stay as they are.

    Raises:
        ValueError: methods that do not answer alike, or other classes or regions than those of the task, a window that
            the method cannot take, an overlap outside 0 to 1, a policy that is none, that the method does not know, or
            that was not fitted, an axis that is none or must not be mirrored, or a volume for something else than a
            region, or that was not learned.
    """

    def __init__(self, method: Method | Sequence[Method], task: Task, window: Sequence[int], overlap: float = 0.5,
                 device: str = "auto", precision: str = "auto", run: str = "", policy: str = "fused",
                 at_once: int = 16, saved: str | Path | None = None, fitted: Fitted | None = None,
                 mirror: bool | Sequence[int] = False, drop_small: bool | Mapping[str, float] = False):
        self.device = machine.choose_device(device)
        self.precision = machine.choose_precision(self.device, precision)
        self.method, *self.others = [method] if isinstance(method, Method) else method
        self.task, self.window, self.overlap, self.run = task, three(window), float(overlap), run
        self._check_alike()
        self.at_once, self.saved, self.fitted = at_once, None if saved is None else Path(saved), fitted or Fitted()
        self.checkpoints: tuple[Path, ...] = ()     # from which `load` took its methods
        self.typical = Typical()                # likewise
        self.drop_small = drop_small
        check_smallest({} if isinstance(drop_small, bool) else drop_small, task)
        self.policy, self.mirror = self.answers_by(policy)[0], mirrored_axes(mirror, task)
        for member in self.members:
            member.check_size(self.window)
        if not 0 <= overlap < 1 or at_once < 1:
            raise ValueError(f"found overlap={overlap} and at_once={at_once}, expected 0 <= overlap < 1 and at least 1")
        self.weights = gaussian(self.window).to(self.device)
        self.sums_on = self.device      # until its memory does not suffice

    def _check_alike(self) -> None:
        """Nothing, if its methods can answer together, for its task.

        Raises:
            ValueError: they have other modalities or classes, or answer from other subsets; or the task asks for
                others.
        """
        for member in self.members:
            member.expect_answers(self.task.outputs, self.task.name)
        first, *others = [(set(one.modalities), set(one.answerable(set(one.modalities)))) for one in self.members]
        for member, other in zip(self.others, others, strict=True):
            if other != first:
                found = " and ".join(f"{one.name} of {list(one.modalities)}" for one in (self.method, member))
                raise ValueError(f"found the methods {found}, expected the same modalities, and answers from the same "
                                 "subsets of them, of all that answer together; leave one out")

    @classmethod
    def load(cls, run: str | Path | Run | Sequence[str | Path | Run], checkpoint: str = "best",
             **settings) -> Predictor:
        """The method of a run folder, ready to predict.

        Args:
            run: folder that a Trainer wrote, or the name of a model that comes with the toolkit (runs.py); or several,
                such as the folds of a cross-validation, that answer together. What was fitted for each of them is
                averaged too, until it is fitted for them together.
            checkpoint: "best" by validation (the newest where nothing was validated) or "newest".
            settings: other arguments of the Predictor; without a window it is the patch of the training. Without
                mirror (or None) the recipe of the training decides (nnU-Net's mirrors); mirror=True takes the axes
                along which the training mirrored.

        Raises:
            FileNotFoundError: there is no such run, or it has no checkpoint yet.
            ValueError: mirror=True, and a training mirrored nothing; runs of other tasks or windows than the first; or
                as for making a Predictor.
        """
        runs = [Run(one) for one in ([run] if isinstance(run, str | Path | Run) else run)]
        paths = [checkpoints.chosen(one.checkpoints, checkpoint) for one in runs]
        task = same_in([Task.from_json(one.settings["task"]).to_json() for one in runs], runs, "task")
        if (window := settings.pop("window", None)) is None:
            window = same_in([{"patch_size": one.settings["trainer"]["patch_size"]} for one in runs], runs,
                             "window")["patch_size"]
        settings["mirror"] = _mirrored_by(runs, settings.pop("mirror", None))
        methods = [checkpoints.load(path) for path in paths]
        found = cls(methods, Task.from_json(task), window, run="+".join(one.name for one in runs),
                    **{"fitted": Fitted.of(paths, methods), **settings})
        found.checkpoints = tuple(paths)
        found.typical = next((one for one in map(Typical.load, paths) if one.cases), Typical())
        return found

    def settings(self) -> dict[str, Any]:
        """All that changes an answer and is no case's, as plain values: weights, task, windows, precision, policy."""
        weights = sorted(map(checkpoints.fingerprint, self.members))
        return as_json({
            "toolkit": __version__, "method": self.name, "weights": weights if self.others else weights[0],
            "task": self.task.to_json(), "window": self.window, "overlap": self.overlap,
            "precision": str(self.precision).removeprefix("torch."), "policy": self.policy, **self.how(self.policy)})

    @property
    def reads(self) -> dict[str, Any]:
        """How cases are cut and turned around, as plain values, which what was fitted holds for."""
        return {"window": list(self.window), "overlap": self.overlap, "mirror": list(self.mirror)}

    @property
    def fitted_otherwise(self) -> str:
        """In which of these what was fitted was learned of other answers, in words; "" where in none."""
        return "; ".join(f"{name} {before} then, {self.reads[name]} now" for name, before in self.fitted.read.items()
                         if before != self.reads.get(name))

    def facts(self) -> Facts:
        """What a reader should know of it."""
        axes = ("left-right", "posterior-anterior", "inferior-superior")
        how = self.how(self.policy)
        rows = {
            "answers": f"{len(self.members)} of {self.name}, together" if self.others else self.name,
            "scans": ", ".join(self.method.modalities), "classes": ", ".join(self.task.class_names),
            "from": self.run and f"run {self.run}" + (f", {self.checkpoint.name}" if self.checkpoint else ""),
            "window": f"{edges(self.window)} voxels, overlap {self.overlap:g}",
            "policy": self.policy + (f", shares of the heads by number of scans: {how['by_size']}"
                                     if "by_size" in how else ""),
            "mirrored": ", ".join(axes[one] for one in self.mirror),
            "dropped parts": ", ".join(f"{region} below {mm3:g} mm³"
                                       for region, mm3 in how.get("smallest_mm3", {}).items()),
            "runs on": f"{self.device}, {str(self.precision).removeprefix('torch.')}",
            "saved answers": str(self.saved or "")}
        gone = ["The folder of saved answers is not there."] if self.saved and not self.saved.is_dir() else []
        gone += [f"What was fitted was learned of other answers: {told}."] if (told := self.fitted_otherwise) else []
        return Facts(f"Predictor: {self.name} for {self.task.name}",
                     {name: text for name, text in rows.items() if text}, faults=gone)

    def __repr__(self) -> str:
        rows = self.facts().rows
        return in_lines(f"Predictor: {rows['answers']} of {rows['scans']}" + (f"; {rows['from']}" if self.run else ""),
                        f"classes {rows['classes']}",
                        f"window {rows['window']}; policy {self.policy}; {rows['runs on']}")

    def how(self, policy: str) -> dict[str, Any]:
        """What else decides about the answers of a policy, as plain values; nothing of the plainest."""
        shares = {str(size): share for size, share in self.fitted.by_size.items()}
        found = {"by_size": shares if policy == "by-size" else {}, "mirror": list(self.mirror),
                 "members": len(self.members) * bool(self.others), "smallest_mm3": self.smallest_mm3(policy)}
        return {name: value for name, value in found.items() if value}

    def smallest_mm3(self, policy: str) -> dict[str, float]:
        """The volumes under which parts of regions are dropped from the answers of a policy.

        Raises:
            ValueError: what was learned is asked for, and nothing was.
        """
        found = self.drop_small if isinstance(self.drop_small, Mapping) else {}
        if self.drop_small is True:
            if policy not in self.fitted.smallest_mm3:
                raise ValueError(f"found drop_small=True and nothing learned of the policy {policy!r}, expected what "
                                 "was learned on validation cases; learn it: maml-toolkit fit RUN CASES, or "
                                 "evaluation.fit_smallest(predictor, cases); or give volumes by region")
            found = self.fitted.smallest_mm3[policy]
        return {region: float(mm3) for region, mm3 in found.items() if mm3 > 0}

    def answers_by(self, policies: str | Iterable[str], sizes: Iterable[int] = ()) -> list[str]:
        """The policies, or the one, each once, if it answers by them from so many scans.

        Raises:
            ValueError: one is none, the method does not know what each modality says, or nothing was fitted.
        """
        policies = check_policies(policies)
        self.expect_heads(policies)
        known = self.fitted.by_size
        if "by-size" in policies and (not known or (unknown := sorted(set(sizes) - set(known)))):
            what = f"{', '.join(map(str, unknown))} scans; known are {known}" if known else "any number of scans"
            raise ValueError(f"found the policy 'by-size' and no share of the heads for {what}, expected what was "
                             "fitted on validation cases; fit it: maml-toolkit fit RUN CASES, or "
                             "evaluation.fit_policy(predictor, cases)")
        for policy in policies:
            self.smallest_mm3(policy)
        return policies

    def expect_heads(self, policies: Iterable[str]) -> None:
        """Nothing, if the method knows what each modality says, where one of the policies needs that.

        Raises:
            ValueError: it does not.
        """
        if (needing := [one for one in policies if one != "fused"]) and not self.tells_each:
            raise ValueError(f"found the policy {needing[0]!r}, and {self.name} has no answer of each modality, "
                             "expected a method with heads, such as maml; use the policy 'fused'")

    @property
    def checkpoint(self) -> Path | None:
        """From which it was loaded, where that is one."""
        return self.checkpoints[0] if len(self.checkpoints) == 1 else None

    @property
    def members(self) -> tuple[Method, ...]:
        """The methods that answer together; nearly always one."""
        return (self.method, *self.others)

    @property
    def tells_each(self) -> bool:
        """Whether the answer holds what each modality says alone."""
        return all(member.tells_each for member in self.members)

    @property
    def name(self) -> str:
        """Of the method, or of those that answer together."""
        return "+".join(dict.fromkeys(member.name for member in self.members))

    def predict(self, case: Case | PreparedCase, present: str | Iterable[str] | None = None, attention: bool = True,
                contributions: bool = True, uncertainty: bool = False) -> Prediction:
        """Segment a case, which calling the Predictor does too.

        Args:
            case: prepared, or its files are read, checked and preprocessed here.
            present: the modalities to use; all that both the case and the method have when left out.
            attention, contributions: whether these maps are kept, where the method has them.
            uncertainty: whether all of these modalities but each one are asked too, for `uncertainty` and `sureness` of
                the prediction (sureness.py). MAML runs its streams once for all of that.

        Raises:
            DataError: a file that cannot be used, or an answer that is no number.
            MissingModalityError: modalities that the case lacks or the method does not accept.
            ValueError: uncertainty of the policy "by-size", and it was not fitted for the numbers of scans of subsets.
        """
        ((_, prediction),) = self.sweep(case, [self.wanted(case, present)], None, attention, contributions, uncertainty)
        return prediction

    __call__ = predict

    def wanted(self, case: Case | PreparedCase, present: str | Iterable[str] | None = None) -> tuple[str, ...]:
        """The modalities to use of a case, in the method's order; said before any file is read."""
        expect_cases([case], PreparedCase)
        if present is None:
            present = set(case.images) & set(self.method.modalities)
        try:
            wanted = self.method.present({present} if isinstance(present, str) else present)
        except MissingModalityError as error:
            raise error.at(case.id) from None
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
        warn_of([*prepared.oddities, *self.typical.unlike(prepared)])
        return prepared

    def subsets(self, case: Case | PreparedCase, subsets: Iterable[Iterable[str]] | None = None,
                attention: bool = False, contributions: bool = False, uncertainty: bool = False) -> Prediction:
        """Segment a case from several subsets of its modalities, its windows read and the streams run once.

        Args:
            subsets: which; every non-empty one that the method accepts when left out.
            case, attention, contributions, uncertainty: as for `predict`.

        Returns:
            The prediction from the largest subset; its `subsets` holds those from all.

        Raises:
            DataError, MissingModalityError: as for `predict`.
        """
        if subsets is None:
            subsets = self.method.answerable(set(case.images)) or [case.images]    # what is refused is refused by name
        answers = {subset: prediction for (subset, _), prediction in
                   self.sweep(case, subsets, None, attention, contributions, uncertainty)}
        return replace(answers[max(answers, key=len)], subsets=answers)

    def sweep(self, case: Case | PreparedCase, subsets: Iterable[Iterable[str]],
              policies: str | Sequence[str] | None = None, attention: bool = False, contributions: bool = False,
              uncertainty: bool = False) -> Iterator[tuple[Key, Prediction]]:
        """(subset, policy) and prediction, one after the other; windows are read and streams run once for `at_once`.

        A subset or a policy that is listed twice is answered once. Of a case that is not prepared, what is `saved` is
        read, and nothing else of the case where that is all.

        Raises:
            DataError, MissingModalityError: as for `predict`, the latter before anything is computed.
            ValueError: it does not answer by these policies from so many scans.

        Warns:
            DataWarning: what was fitted is used, and was learned with other windows or mirrors.
        """
        subsets = list(dict.fromkeys(frozenset(self.wanted(case, subset)) for subset in subsets))
        asked = [one for subset in subsets for one in self.voices(subset, uncertainty)]
        policies = self.answers_by(self.policy if policies is None else policies, map(len, asked))
        self._warn_of_fit(policies, uncertainty)
        keys = list(itertools.product(subsets, policies))
        maps = named_maps(attention, contributions, uncertainty)
        found = {} if isinstance(case, PreparedCase) else saved_answers(self, case, keys, maps)
        lacking = list(dict.fromkeys(subset for subset, policy in keys if (subset, policy) not in found))
        computed = self._computed(case, lacking, policies, maps)
        for key in keys:
            while key not in found:
                found.update([next(computed)])
            prediction = found.pop(key)
            yield key, replace(prediction, source=case) if isinstance(case, Case) else prediction

    def _warn_of_fit(self, policies: Sequence[str], uncertainty: bool) -> None:
        """Say where answers rest on what was learned of answers that were made in another way."""
        used = {"the shares of by-size": "by-size" in policies, "the smallest parts": self.drop_small is True,
                "the Dice to expect": uncertainty and any(one in self.fitted.expected_dice for one in policies)}
        if (names := [name for name, is_used in used.items() if is_used]) and (told := self.fitted_otherwise):
            warn_of([DataError(f"{' and '.join(names)} were learned of answers that were made in another way: {told}",
                               "Answer in the way of then, or fit again: evaluation.fit_policy, fit_smallest and "
                               "fit_expected_dice.", path=self.checkpoint)])

    def _computed(self, case: Case | PreparedCase, subsets: Sequence[frozenset[str]], policies: Sequence[str],
                  maps: Sequence[str]) -> Iterator[tuple[Key, Prediction]]:
        """The predictions of the network; an unprepared case is read when the first is wanted."""
        prepared = case if isinstance(case, PreparedCase) else self.prepared(case)
        for first in range(0, len(subsets), self.at_once):
            yield from self._together(prepared, subsets[first:first + self.at_once], policies, maps).items()

    def _together(self, case: PreparedCase, subsets: Sequence[frozenset[str]], policies: Sequence[str],
                  maps: Sequence[str]) -> dict[Key, Prediction]:
        """The predictions from some subsets; where a GPU cannot hold the sums over windows, the computer does."""
        with (machine.memory_for(f"a window of {self.window}", self.device, MEMORY_REMEDY),
              machine.fastest_convolutions(search=False)):
            try:
                return self._over_windows(case, subsets, policies, maps)
            except (RuntimeError, MemoryError) as error:
                if self.sums_on.type == "cpu" or not machine.is_out_of_memory(error):
                    raise
            warnings.warn(f"case {case.id} does not fit into the memory of {self.sums_on}; its sums over windows are "
                          "kept in the computer's memory from now on, which is slower", stacklevel=2)
            self.sums_on = torch.device("cpu")
            machine.give_back_memory(self.device)
            return self._over_windows(case, subsets, policies, maps)

    def voices(self, subset: frozenset[str], uncertainty: bool) -> list[frozenset[str]]:
        """The subsets that are asked for an answer: all of these modalities and, for its uncertainty, all but each."""
        answerable = self.method.answerable(subset) if uncertainty else []
        return [subset, *(one for one in answerable if len(one) == len(subset) - 1)]

    @torch.inference_mode()
    def _over_windows(self, case: PreparedCase, subsets: Sequence[frozenset[str]], policies: Sequence[str],
                      maps: Sequence[str]) -> dict[Key, Prediction]:
        """Every window is read, and every stream run, once for all subsets; by one member after the other."""
        names = [name for name in self.method.modalities if any(name in subset for subset in subsets)]
        images, margins = padded(torch.stack([torch.from_numpy(np.array(case.images[name])) for name in names]),
                                 self.window, [case.outside.get(name, 0.0) for name in names])
        found = Answering(self, subsets, policies, maps, images.shape[1:])
        inside = tuple(slice(before, n - after) for (before, after), n in zip(margins, found.shape, strict=True))
        if self.sums_on == self.device:
            images = images.to(self.device)
        for number, member in enumerate(self.members):
            member.to(self.device).eval()
            found.begin()
            for place, flip in itertools.product(windows(found.shape, self.window, self.overlap), flips(self.mirror)):
                part = images[(slice(None), *place)].to(self.device)
                seen = part.flip(flip) if flip else part
                window = {name: seen[None, None, i] for i, name in enumerate(names)}
                with machine.autocast(self.device, self.precision):
                    for subset, answer in member.sweep(window, found.asked):
                        found.add(subset, answer, place, flip, number)
                found.seen(place)
            found.end(inside)
            if self.others:
                member.cpu()
        return found.predictions(case, inside)


def _mirrored_by(runs: Sequence[Run], mirror: bool | Sequence[int] | None) -> bool | Sequence[int]:
    """What `mirror` of `Predictor.load` comes to: the axes that were named, or those of the training.

    Raises:
        ValueError: those of the training were asked for, and it mirrored nothing.
    """
    trainers = [one.settings["trainer"] for one in runs]
    by_recipe = mirror is None and all(one.get("mirror") for one in trainers)
    axes = axes_of_training(trainers) if by_recipe or mirror is True else () if mirror is None else mirror
    if mirror is True and not axes:
        raise ValueError(f"found mirror=True, and in the training of {'+'.join(one.name for one in runs)} patches "
                         "were mirrored along no axis; leave it out, or name the axes, such as mirror=(0,)")
    return axes
