"""Training: one loop over steps, the same for every method, that goes on where it stopped.

What a step sees and draws is a function of the seed and the step's number alone (patches.py), so a run that
was interrupted and resumed is the run that was not.
"""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from maml_toolkit.data.augmentation import Augmentation
from maml_toolkit.data.cases import Case
from maml_toolkit.data.further import apart
from maml_toolkit.data.patches import Batch, PatchSampler
from maml_toolkit.data.prepared import PreparedCase
from maml_toolkit.data.tasks import Task
from maml_toolkit.evaluation.fitting import fit_all
from maml_toolkit.methods import Method
from maml_toolkit.methods.method import Stage, three
from maml_toolkit.networks.execution import set_execution
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.kept import FITTED
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.prediction.runs import Run
from maml_toolkit.prediction.windows import axes_of_training
from maml_toolkit.system import machine, processes, tables
from maml_toolkit.system.files import writable
from maml_toolkit.system.locks import held
from maml_toolkit.system.showing import Shown, edges, in_lines
from maml_toolkit.training import distributed
from maml_toolkit.training.callbacks import Callback, Callbacks
from maml_toolkit.training.checking import check_cases, check_settings
from maml_toolkit.training.live import Live, card, in_kernel
from maml_toolkit.training.recipes import Recipe, restore
from maml_toolkit.training.resuming import CONTENTS, Progress, mark_stopped, random_state, restore_random, resume
from maml_toolkit.training.starting import in_words, start_from
from maml_toolkit.training.stepping import Launched, on_device, seed_of, update
from maml_toolkit.training.training_data import TrainingData, Validated, mean_dice, validated

BAR = "{desc}: {percentage:.0f}%{postfix}, {rate_fmt}, {remaining} left {bar}"
"""The bar of a stage: what counts is readable in 80 columns, and the bar itself takes what is left."""


class Trainer(Shown):
    """Trains a method on cases, into a run folder.

    Args:
        method: to be trained; moved to the device.
        run: the folder that everything is written to (runs.py).
        task: what the cases are, also by its name or as a JSON file; where it names no spacing, the median of the
            training cases is taken.
        patch_size: voxels on each axis, multiples of what the method's strides ask for.
        batch_size: patches a step, in each process: n processes take a step of n x batch_size patches
            (distributed.py).
        accumulate: parts into which a batch is cut, one in memory at a time. The gradient is that of the whole
            batch wherever the loss is a mean over samples; batch Dice, and whatever is drawn for a batch, is of a part.
        epochs, steps_per_epoch: the budget; 600 epochs are the paper's, 250 steps nnU-Net's.
        recipe: how it is trained: "paper", "nnunet", or a Recipe of your own (recipes.py).
        start: a run, a shared model or a Predictor, from which the method takes over what it can (starting.py).
        learning_rate, schedule, augmentation: instead of the recipe's; no augmentation: None. A list may hold
            transforms of TorchIO behind it: [Augmentation(), torchio.RandomGhosting()]. Patches of a task with classes
            on one side of the body are never mirrored from left to right by an Augmentation.
        validate_every: epochs between validations of whole cases; the last epoch is validated too.
        checkpoint_minutes: between checkpoints within an epoch; each epoch ends with one anyway.
        seed: of patches and augmentation; the weights are seeded by whoever makes the method.
        cache: folder for preprocessed cases; kept in memory when left out.
        device, precision: as in machine.py.
        callbacks: that hear of it, of your own or "tensorboard" and "mlflow" (callbacks.py).
        live: whether `fit` shows a picture of itself that is kept up to date (live.py); in a notebook, if left out.
        recompute: activation checkpointing (networks/execution.py), half the memory of a step for about a fifth more
            time; same weights.
        compile: have torch compile the streams (networks/execution.py), which pays in a long training on a GPU.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(self, method: Method, run: str | Path, task: Task | str | Path, *,
                 patch_size: Sequence[int] = (128, 128, 128), batch_size: int = 2, accumulate: int = 1,
                 epochs: int = 600, steps_per_epoch: int = 250, recipe: Recipe | str = "paper",
                 learning_rate: float | None = None, schedule: str | None = None,
                 augmentation: Augmentation | Sequence[Any] | str | None = "recipe", validate_every: int = 10,
                 checkpoint_minutes: float = 5, seed: int = 0, cache: str | Path | None = None, device: str = "auto",
                 precision: str = "auto", start: str | Path | Predictor | None = None,
                 callbacks: Sequence[Callback | str] | Callback | str = (), recompute: bool = False,
                 compile: bool = False, live: bool | None = None):
        self.method, self.run, self.compile = method, Run(run), compile
        self.task = task = Task.named(task)
        set_execution(method, recompute, compile)
        self.patch_size, self.batch_size, self.accumulate = three(patch_size), batch_size, accumulate
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        given = {"learning_rate": learning_rate, "schedule": schedule}
        self.recipe = replace(Recipe.of(recipe), **{name: one for name, one in given.items() if one is not None})
        augmentation, self.further = apart(augmentation)
        augmentation = self.recipe.augmentation if augmentation == "recipe" else augmentation
        if not isinstance(augmentation, Augmentation | None):
            raise ValueError(f"found augmentation={augmentation!r}, expected an Augmentation, a list with "
                             "transforms of TorchIO, None for nothing, or 'recipe'")
        self.recipe = replace(self.recipe, augmentation=augmentation and augmentation.for_task(task))
        self.seed, self.cache = seed, cache
        self.validate_every, self.checkpoint_minutes = validate_every, checkpoint_minutes
        self.world = distributed.world()
        self.device = distributed.own_device(machine.choose_device(device))
        self.precision = machine.choose_precision(self.device, precision)
        self.compute = {"device": str(self.device), "precision": precision}
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        check_settings(self)
        live = in_kernel() if live is None else live
        callbacks = [callbacks] if isinstance(callbacks, str | Callback) else callbacks
        self.callbacks = Callbacks([*callbacks, *([Live()] if live else [])])
        self.validated: list[Validated] = []        # what the latest validation found of each case
        self.started = None if start is None else start_from(method, task, start)

    def __repr__(self) -> str:
        return in_lines(f"Trainer of {self.method.name} ({', '.join(self.method.modalities)}) for {self.task.name}",
                        f"{self.batch_size} patches of {edges(self.patch_size)}, {self.epochs} epochs of "
                        f"{self.steps_per_epoch} steps, recipe {self.recipe.name}, {self.device}",
                        repr(self.run).splitlines()[0])

    def _card(self) -> str:
        return card(self)

    @property
    def steps(self) -> int:
        """Steps of one stage."""
        return self.epochs * self.steps_per_epoch

    def settings(self, training: Sequence[Case], validation: Sequence[Case]) -> dict:
        """Everything that the weights depend on, as plain values; written to settings.json.

        Of the batch that is all patches of a step, in all processes, and into how many parts the loss cuts them, so
        that a run may go on with half the processes and twice the parts in each.
        """
        return {
            "cases": {"training": sorted(case.id for case in training),
                      "validation": sorted(case.id for case in validation)},
            "method": {"method": self.method.name, **self.method.settings},
            "task": self.task.to_json(),
            "trainer": {"patch_size": list(self.patch_size), "batch_size": self.batch_size * self.world.size,
                        "parts": self.accumulate * self.world.size, "epochs": self.epochs,
                        "steps_per_epoch": self.steps_per_epoch, "seed": self.seed, "precision": str(self.precision),
                        "compile": self.compile, "start": self.started and self.started["weights"],
                        "further": self.further and self.further.settings(), **self.recipe.settings(),
                        "augmentation": self.recipe.augmentation and asdict(self.recipe.augmentation)},
        }

    def fit(self, train_cases: Sequence[Case], validation_cases: Sequence[Case] = (), *,
            changed: bool = False) -> pd.DataFrame:
        """Train until the budget is spent and return the history, one row an epoch.

        Called again on the same run folder it goes on from the newest checkpoint that is whole, to the same weights
        as without the interruption (bit for bit on a CPU with as many threads); a finished run is left as it is. SIGINT
        (Ctrl-C, or the stop button of a notebook), SIGTERM, SIGHUP and SIGUSR1 end it after the step at work, saved,
        with a note in stopped.json.

        Args:
            train_cases, validation_cases: with labels; no case twice.
            changed: go on although data or settings are others than before. More epochs at a constant learning rate
                may always be asked for.

        Raises:
            DataError: all that is wrong with the cases, before training starts.
            PermissionError: the run folder cannot be written; said before anything is read.
            HeldError: another process trains in this run folder; said before anything is read.
            ValueError: the run was begun with other data or settings.
            CheckpointError: the run has checkpoints, but all are damaged.
            FloatingPointError: the loss is not a number, several steps in a row.
            MemoryError: a step does not fit into memory.
            OSError: a checkpoint could not be written; those of before are still there.
            processes.Stopped, KeyboardInterrupt: a signal ended it. A script that lets Stopped pass ends with the
                exit status 75.
        """
        begun = self.started or checkpoints.newest(self.run.checkpoints)
        check_cases(self.method, train_cases, validation_cases, bool(begun))
        first = self.world.first      # it alone writes
        if first:
            writable(self.run.folder), writable(self.run.checkpoints)
        with (held(self.run.folder) if first else nullcontext() as self._lock, distributed.group(self.device),
              processes.noticed() as self._notice):
            try:
                self._fit(train_cases, validation_cases, changed)
            except (processes.Stopped, KeyboardInterrupt) as error:
                signal = self._notice.signal or "SIGINT"
                raise type(error)(mark_stopped(self.run, signal) if first else f"stopped by {signal}") from None
        return self.history()

    def _fit(self, train_cases: Sequence[Case], validation_cases: Sequence[Case], changed: bool):
        stages = self.method.stages()
        with self._notice.at_once():
            begun = distributed.from_first(self.run.history.exists)
            data = TrainingData(train_cases, validation_cases, self.task, self.cache, begun)
            self.task = data.task
            progress, state = self._begin(train_cases, validation_cases, data, changed)
            done = progress.epochs >= self.epochs * len(stages) and not (
                validation_cases and distributed.from_first(self._lacks_fitted))    # it may have been stopped at that
            if self.world.first:
                self.run.stopped.unlink(missing_ok=True)
                self._announce(progress.step, self.steps * len(stages), done)
            if done:
                return
            training, validation = data.arrays(self.method)
        sampler = PatchSampler(training, self.patch_size, self.batch_size, self.seed, self.world.rank, self.world.size,
                               self.recipe.augmentation, self.recipe.foreground, self.further)
        self.method.to(self.device)
        self._tell("begin", self.settings(train_cases, validation_cases))
        if state:
            states = [state["random"], *state.get("others", [])]
            restore_random(states[self.world.rank % len(states)])
            if self.scaler.is_enabled() and state.get("scaler"):
                self.scaler.load_state_dict(state["scaler"])
        for number, stage in enumerate(stages):
            first, last = number * self.epochs, (number + 1) * self.epochs
            if progress.epochs >= last:
                continue
            stage, optimizer = distributed.shared(stage, self.device), self.optimizer(stage)
            done = progress.step - first * self.steps_per_epoch
            if state and done > 0:
                restore(optimizer, state["optimizer"])
            with (machine.progress(desc=stage.name, total=self.steps, initial=done, unit="step", bar_format=BAR) as bar,
                  machine.fastest_convolutions(search=True)):
                while progress.epochs < last:
                    self._epoch(stage, first * self.steps_per_epoch, sampler, optimizer, progress, bar)
                    # what earlier stages train does not answer
                    answers = validation if number == len(stages) - 1 else ()
                    self._finish_epoch(stage.name, optimizer, progress, answers, final=progress.epochs + 1 == last)
        if validation:
            self._fit_answers(validation)
        elif self.world.first:
            checkpoints.forget_best(self.run.checkpoints)     # of before it went on without validation
        self._tell("end", self.history())

    def _announce(self, step: int, steps: int, done: bool) -> None:
        """Print where the run stands, from what it starts, and which precision was chosen."""
        if self.started and not step:
            tqdm.write(in_words(self.started))
        if done:
            tqdm.write(f"{self.run.folder} is finished, {step:,} steps.")
            return
        tqdm.write(f"{self.run.folder} {'goes on from' if step else 'begins at'} step {step:,} of {steps:,}.")
        if self.compute["precision"] == "auto":
            tqdm.write(machine.best_precision(self.device)[1])

    def _lacks_fitted(self) -> bool:
        return not (checkpoints.best(self.run.checkpoints) / FITTED).exists()

    def _fit_answers(self, cases: Sequence[PreparedCase]) -> None:
        """What answers of the best checkpoint gain from the validation cases (evaluation/fitting.py), kept with it."""
        best, method = distributed.from_first(lambda: (
            path := checkpoints.best(self.run.checkpoints), checkpoints.load(path)))
        mirror = axes_of_training([self.settings((), ())["trainer"]]) if self.recipe.mirror else ()     # as when loaded
        predictor = Predictor(method, self.task, self.patch_size, mirror=mirror, **self.compute)
        with self._notice.at_once():
            fit_all(predictor, cases, over=distributed.shared_out)
        if self.world.first:
            predictor.fitted.keep([best])

    def _begin(self, train_cases: Sequence[Case], validation_cases: Sequence[Case], data: TrainingData,
               changed: bool) -> tuple[Progress, dict | None]:
        """Where the first process finds the run to stand, with its weights, in every process."""
        def begun() -> tuple[Progress, dict | None, dict[str, Tensor]]:
            now = {**self.settings(train_cases, validation_cases), CONTENTS: data.contents()}
            progress, state = resume(self.run, self.method, now, changed)
            return progress, state, {name: tensor.cpu() for name, tensor in self.method.state_dict().items()}

        progress, state, weights = distributed.from_first(begun)
        self.method.load_state_dict(weights)
        return progress, state

    def history(self) -> pd.DataFrame:
        """One row for each finished epoch."""
        return self.run.epochs()

    def _epoch(self, stage: Stage, first: int, sampler: PatchSampler, optimizer: torch.optim.Optimizer,
               progress: Progress, bar: tqdm):
        """The steps that are left of the epoch, of a stage that begins with the step `first`."""
        begun, saved = time.perf_counter() - progress.seconds, time.monotonic()
        last = (progress.epochs + 1) * self.steps_per_epoch
        self.method.train()
        launched = None
        batches = on_device(sampler.batches(progress.step, last), self.device)
        for number, batch in enumerate(batches, start=progress.step):
            rate = self.recipe.rate((number - first) / self.steps)
            following = self.step(stage, batch, optimizer, rate, number), batch.cases
            # what the step before found is asked for when the device has this one to do
            asked = self._told(launched, saved, progress, bar)
            launched = following
            if asked or number + 1 == last:
                asked = self._told(launched, saved, progress, bar) or asked
                launched = None
            progress.seconds = time.perf_counter() - begun
            if asked:
                self._save(optimizer, progress)
                saved = time.monotonic()
                if isinstance(asked, str):
                    self._notice.signal = asked
                    self._notice.check()

    def _told(self, launched: tuple[Launched, tuple[str, ...]] | None, saved: float, progress: Progress,
              bar: tqdm) -> str | bool:
        """Count a step, if there is one, and agree on what to do now, in all processes alike, or one would wait for
        another for ever: the name of a signal, at which to save and end; or whether to save."""
        found = launched and launched[0].found()
        said = distributed.gathered({
            "signal": self._notice.signal, "save": time.monotonic() - saved > 60 * self.checkpoint_minutes,
            "terms": found.terms if found else [], "cases": launched[1] if found and found.skipped else ()})
        if found:
            terms = [part for one in said for part in one["terms"]]
            # a scale above 1 that makes a gradient overflow will be halved
            rescaled = found.skipped and found.scale > 1 and all(np.isfinite(part["total"]) for part in terms)
            terms = {} if found.skipped else distributed.mean_terms(terms)
            progress.add(terms, [case for one in said for case in one["cases"]], rescaled)
            total = f", total {terms['total']:.3f}" if terms else ""
            bar.set_postfix_str(f"epoch {progress.epochs + 1}{total}", refresh=False)
            bar.update()
        return next((one["signal"] for one in said if one["signal"]), False) or any(one["save"] for one in said)

    def optimizer(self, stage: Stage) -> torch.optim.Optimizer:
        """A fresh optimiser of a stage's parameters, which are on the device already."""
        return self.recipe.optimizer_of(stage.parameters)

    def step(self, stage: Stage, batch: Batch, optimizer: torch.optim.Optimizer, rate: float, number: int) -> Launched:
        """One step of the optimiser, as `fit` takes it; it changes nothing where the gradient is no number.

            (stage,) = trainer.method.to(trainer.device).train().stages()
            optimizer = trainer.optimizer(stage)
            terms = trainer.step(stage, batch, optimizer, 3e-4, 0).found().terms

        Args:
            stage: of the method, which is on the device and in training mode.
            batch: as many patches as `batch_size`, on any device; what was drawn for them is done here.
            optimizer: of the stage's parameters.
            rate: the learning rate of this step.
            number: of the step, counted from 0; with the seed it decides what the loss draws.

        Returns:
            The step, at which a GPU may still be; its `found` waits for it and tells the terms of the loss.

        Raises:
            MemoryError: it does not fit into memory.
        """
        with machine.memory_for(*self._need()):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            parts, found = batch.split(self.accumulate), []
            for index, part in enumerate(parts, start=self.world.rank * self.accumulate):
                with nullcontext() if part is parts[-1] else distributed.gradients_stay(stage):
                    found.append(self._part(stage, part, number, index))
            return update(optimizer, self.scaler, found, self.recipe.clip_norm)

    def _part(self, stage: Stage, part: Batch, step: int, number: int) -> dict[str, Tensor]:
        """Add the gradient of one part of a step's patches to that of the others; returns the terms of its loss."""
        # MPS knows no nearest neighbours in three dimensions
        images, labels = (part if self.device.type == "mps" else part.to(self.device)).transformed()
        images, labels = {name: image.to(self.device) for name, image in images.items()}, labels.to(self.device)
        with machine.autocast(self.device, self.precision):
            terms = stage.loss(images, labels, self._generator(step, number))
        self.scaler.scale(terms["total"]).backward(seed_of(terms["total"], self.accumulate))
        return {name: term.detach() for name, term in terms.items()}

    def _generator(self, step: int, part: int) -> torch.Generator:
        """What the loss of this part draws from. The generator of a CPU takes the lowest 32 bits of its seed alone."""
        start = int(np.random.SeedSequence((self.seed, part)).generate_state(1)[0]) if self.seed or part else 0
        return torch.Generator(self.device).manual_seed((start + step) % 2**32)

    def _need(self) -> tuple[str, torch.device, str]:
        """For the error where memory runs out."""
        return (f"a step of batch_size={self.batch_size} patches of {edges(self.patch_size)} voxels", self.device,
                f"lower batch_size, patch_size or the method's channels (found {self.method.settings['channels']}), "
                "raise accumulate up to batch_size, or set recompute=True"
                + (", or try precision='bfloat16' or 'float16'" if self.precision == torch.float32 else ""))

    def _finish_epoch(self, stage: str, optimizer: torch.optim.Optimizer, progress: Progress,
                      validation: Sequence[PreparedCase], final: bool):
        """Write the epoch's row, validate when it is due, save."""
        epoch = progress.epochs + 1
        row = {"epoch": epoch, "stage": stage, "step": progress.step, "seconds": round(progress.seconds, 2),
               "learning_rate": optimizer.param_groups[0]["lr"], "skipped": progress.skipped}
        row |= {f"loss/{name}": mean for name, mean in progress.means().items()}
        if validation and (final or epoch % self.validate_every == 0):
            self._save(optimizer, progress)      # validation may take long, and is not worth losing steps for
            with self._notice.at_once(), machine.memory_for(
                    f"a case in windows of {edges(self.patch_size)} voxels", self.device, "lower patch_size"):
                scores = self.validate(validation)
            self._tell("validation", scores)
            row |= {f"validation/dice/{region}": score for region, score in scores.items()}
            mean = float(np.mean([*scores.values()])) if scores else -np.inf
            if mean > progress.best:
                progress.best = mean
                if self.world.first:
                    checkpoints.save(self.run.checkpoints, progress.step, self.method, best=True)
        if self.world.first:
            history = self.history()
            tables.write(self.run.history, [*history[history["epoch"] < epoch].to_dict("records"), row])
        progress.finish_epoch()
        self._save(optimizer, progress)
        self._tell("epoch", row)

    def validate(self, cases: Sequence[PreparedCase]) -> dict[str, float]:
        """Mean Dice (0 to 1) of each region over whole cases, on the working grid, from all that a case has.

        A method that takes one modality at a time is asked for each. Several processes share the cases.
        """
        with torch.compiler.set_stance("force_eager") if self.compile else nullcontext():    # for a few windows
            self.validated = validated(Predictor(self.method, self.task, self.patch_size, **self.compute), cases,
                                       self.callbacks.looks)
        return mean_dice(self.validated, self.task)

    def _save(self, optimizer: torch.optim.Optimizer, progress: Progress):
        random, *others = distributed.gathered(random_state())
        if self.world.first:
            self._lock.check()
            folder = checkpoints.save(self.run.checkpoints, progress.step, self.method, {
                "optimizer": optimizer.state_dict(), "scaler": self.scaler.state_dict(), "progress": vars(progress),
                "random": random, "others": others})
            self._tell("checkpoint", folder)

    def _tell(self, what: str, about: Any) -> None:
        """Tell the callbacks; the random numbers of the training stay what they were."""
        if self.world.first and self.callbacks.listening:
            random = random_state()
            self.callbacks.tell(what, self, about)
            restore_random(random)
