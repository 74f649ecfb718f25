"""What every method promises, as checks that any method can be put to, one of your own too.

    >>> from maml_toolkit.methods import build
    >>> bool(report(build("maml", modalities=("t1", "t2"), classes=3, channels=(4, 6)))["kept"].all())
    True

Each promise is a function of a method that raises where it is broken. The method is tried on small random scans;
its weights are changed, so give a fresh one.
"""

import copy
import itertools
import json
from collections.abc import Callable, Set

import pandas as pd
import torch
from torch import Tensor

from maml_toolkit.methods.method import Method
from maml_toolkit.system.errors import MissingModalityError


def report(method: Method) -> pd.DataFrame:
    """Every promise and whether this method keeps it; where it does not, what went wrong.

    Args:
        method: of at least two modalities; it stays as it is, copies are tried.

    Returns:
        A row for each promise: promise, kept, found.
    """
    rows = []
    for sentence, promise in PROMISES.items():
        try:
            promise(copy.deepcopy(method))
            rows.append({"promise": sentence, "kept": True, "found": ""})
        except Exception as error:     # whatever a method of one's own may raise
            rows.append({"promise": sentence, "kept": False, "found": f"{type(error).__name__}: {error}"})
    return pd.DataFrame(rows)


def scans_of(method: Method) -> dict[str, Tensor]:
    """Random scans of two cases, of the smallest size that divides well."""
    generator = torch.Generator().manual_seed(0)
    size = [2 * n for n in method.divisor[:2]] + [3 * method.divisor[2]]
    return {name: torch.randn(2, 1, *size, generator=generator) for name in method.modalities}


def labels_of(method: Method) -> Tensor:
    """Random labels for `scans_of`."""
    shape = next(iter(scans_of(method).values())).shape
    return torch.randint(0, method.classes, (2, *shape[2:]), generator=torch.Generator().manual_seed(1))


def subsets_of(method: Method) -> list[frozenset[str]]:
    """The subsets of its modalities that a method answers from."""
    return method.answerable(set(method.modalities))


def some(scans: dict[str, Tensor], names: Set[str]) -> dict[str, Tensor]:
    """Of these scans those with these names, in the order of the scans."""
    return {name: scan for name, scan in scans.items() if name in names}


def largest(method: Method) -> dict[str, Tensor]:
    """Scans of the largest set that the method answers from."""
    return some(scans_of(method), method.largest(set(method.modalities))[0])


def check(condition: bool, otherwise: str) -> None:
    """Nothing, if the condition holds.

    Raises:
        AssertionError: it does not.
    """
    if not condition:
        raise AssertionError(otherwise)


def logits_have_the_size_of_the_image(method: Method) -> None:
    """The logits have the size of the image, from every subset that it accepts, and its activation goes with them."""
    scans = scans_of(method)
    size = next(iter(scans.values())).shape[2:]
    check(bool(subsets_of(method)), "it accepts no subset at all")
    for present in subsets_of(method):
        answer = method(some(scans, present))
        check(answer.activation == method.activation, f"the activation {answer.activation}, not {method.activation}")
        shape = tuple(answer.logits.shape)
        check(shape == (2, method.outputs, *size), f"logits of shape {shape} from {sorted(present)}")


def order_is_irrelevant(method: Method) -> None:
    """The order of the modalities is irrelevant, for the answer and for the loss."""
    scans, labels = largest(method), labels_of(method)
    backwards = dict(reversed(scans.items()))
    check(torch.equal(method(scans).logits, method(backwards).logits), "other logits in another order")
    scans = scans_of(method)
    one, other = (losses(method, given, labels) for given in (scans, dict(reversed(scans.items()))))
    check(one == other, "another loss in another order")


def losses(method: Method, scans: dict[str, Tensor], labels: Tensor) -> list[dict[str, float]]:
    """The terms of the loss of every stage."""
    return [{name: float(term.detach()) for name, term in
             stage.loss(scans, labels, torch.Generator().manual_seed(0)).items()} for stage in method.stages()]


def loss_reaches_every_parameter(method: Method) -> None:
    """The loss of each stage reaches every parameter of it (over a few steps) and none of another."""
    scans, labels, names = scans_of(method), labels_of(method), {id(p): name for name, p in method.named_parameters()}
    for stage in method.stages():
        method.zero_grad(set_to_none=True)
        for seed in range(12):
            stage.loss(scans, labels, torch.Generator().manual_seed(seed))["total"].backward()
        own = {id(p) for p in stage.parameters}
        reached = {id(p) for p in method.parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        check(own <= reached, f"not reached in {stage.name}: {sorted(names[one] for one in own - reached)}")
        check(reached <= own, f"reached from {stage.name}: {sorted(names[one] for one in reached - own)}")


def every_parameter_belongs_to_a_stage(method: Method) -> None:
    """Every parameter belongs to a stage."""
    staged = {id(parameter) for stage in method.stages() for parameter in stage.parameters}
    left = [name for name, parameter in method.named_parameters() if id(parameter) not in staged]
    check(not left, f"in no stage: {left}")


def loss_is_a_function_of_the_generator(method: Method) -> None:
    """The loss has finite terms, "total" among them, and takes all randomness from its generator."""
    scans, labels = scans_of(method), labels_of(method)
    torch.manual_seed(0)
    first = losses(method, scans, labels)
    torch.manual_seed(1)
    check(losses(method, scans, labels) == first, "another loss with the same generator")
    for terms in first:
        check("total" in terms, f"the terms are {sorted(terms)}")
        check(all(abs(term) < float("inf") for term in terms.values()), f"the terms are {terms}")


def step_lowers_the_loss(method: Method) -> None:
    """A step against the gradient lowers the loss of each stage."""
    scans, labels = scans_of(method), labels_of(method)
    for stage in method.stages():
        optimizer = torch.optim.SGD(stage.parameters, 1e-2)
        before = stage.loss(scans, labels, torch.Generator())["total"]
        before.backward()
        optimizer.step()
        after = stage.loss(scans, labels, torch.Generator())["total"]
        check(bool(after < before), f"{before.item():.4f} before and {after.item():.4f} after a step of {stage.name}")


def same_images_same_answer(method: Method) -> None:
    """The same images give the same answer twice."""
    scans = largest(method)
    method.eval()
    check(torch.equal(method(scans).logits, method(scans).logits), "another answer the second time")


def absent_modality_changes_nothing(method: Method) -> None:
    """What an absent modality would hold cannot change an answer."""
    scans = scans_of(method)
    method.eval()
    for present in subsets_of(method):
        others = {name: scan if name in present else torch.full_like(scan, torch.nan) for name, scan in scans.items()}
        before, after = (method.subsets(images, [present])[present].logits for images in (scans, others))
        check(torch.equal(before, after), f"another answer from {sorted(present)}")


def sweep_is_forward(method: Method) -> None:
    """A sweep over subsets answers as forward does, to 1e-4."""
    scans = scans_of(method)
    method.eval()
    for present, answer in method.subsets(scans, subsets_of(method)).items():
        difference = float((answer.logits - method(some(scans, present)).logits).detach().abs().max())
        check(difference <= 1e-4, f"{difference:.1e} apart from {sorted(present)}")


def contributions_add_up(method: Method) -> None:
    """Contributions, where it has them, are those of the modalities present, and with the bias they are the logits."""
    for present in subsets_of(method):
        answer = method(some(scans_of(method), present))
        if answer.contributions:
            total = sum(answer.contributions.values()) + answer.bias.view(1, -1, 1, 1, 1)
            check(set(answer.contributions) == present, f"{sorted(answer.contributions)} of {sorted(present)}")
            difference = float((total - answer.logits).detach().abs().max())
            check(difference <= 1e-4, f"the sum is {difference:.1e} off the logits from {sorted(present)}")


def wrong_modalities_are_refused(method: Method) -> None:
    """Unknown modalities, none at all, and subsets that it does not accept are refused by name."""
    scans = scans_of(method)
    one = next(iter(scans.values()))
    refused = [({**scans, "unheard_of": one}, "unheard_of"), ({}, "no modality")]
    for size in range(1, len(scans)):
        for names in itertools.combinations(scans, size):
            if not method.accepts(set(names)):
                fewer = method.largest(set(names))
                named = sorted(fewer[0])[0] if fewer else next(name for name in scans if name not in names)
                refused.append((some(scans, set(names)), named))
    for images, named in refused:
        said = refusal(method, images, MissingModalityError)
        check(named in said, f"the refusal of {sorted(images)} does not name {named}: {said}")


def wrong_sizes_are_refused(method: Method) -> None:
    """Images that do not divide, or of different sizes, are refused."""
    scans = largest(method)
    name, one = next(iter(scans.items()))
    wrong = [{key: scan[..., :-1] for key, scan in scans.items()}] if max(method.divisor) > 1 else []
    wrong += [{**scans, name: one[..., :method.divisor[2] * 2]}] if len(scans) > 1 else []
    for images in wrong:
        refusal(method, images, ValueError)


def refusal(method: Method, images: dict[str, Tensor], kind: type[Exception]) -> str:
    """What the method says when it refuses these images by an error of this kind.

    Raises:
        AssertionError: it does not refuse them.
    """
    try:
        method(images)
    except kind as error:
        return str(error)
    raise AssertionError(f"images of { {name: tuple(scan.shape) for name, scan in images.items()} } were not refused")


def settings_rebuild_it(method: Method) -> None:
    """Its settings are plain JSON and rebuild it, with the same answer from the same weights."""
    scans = largest(method)
    settings = json.loads(json.dumps(method.settings))
    check(settings == method.settings, "the settings do not survive JSON")
    again = type(method)(**settings).eval()
    again.load_state_dict(method.state_dict())
    check(torch.equal(again(scans).logits, method.eval()(scans).logits), "another answer from the same weights")


PROMISES: dict[str, Callable[[Method], None]] = {promise.__doc__.strip().rstrip("."): promise for promise in (
    logits_have_the_size_of_the_image, order_is_irrelevant, loss_reaches_every_parameter,
    every_parameter_belongs_to_a_stage, loss_is_a_function_of_the_generator, step_lowers_the_loss,
    same_images_same_answer, absent_modality_changes_nothing, sweep_is_forward, contributions_add_up,
    wrong_modalities_are_refused, wrong_sizes_are_refused, settings_rebuild_it)}
"""The sentence of a promise -> the function that checks it."""
