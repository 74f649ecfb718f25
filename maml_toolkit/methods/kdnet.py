"""KD-Net: a teacher that sees every modality is trained first, then a student for each modality learns from it.

    teacher   early fusion, Dice + cross-entropy
    student   0.75 KL_5(teacher || student) + 0.25 (Dice + cross-entropy) + 10 KL(bottlenecks)

KL_T is that of the softened answers (losses.py), the last term the KL between the lowest features of teacher
and student, softmax over channels. A student answers from its one modality and reads no other, in training
neither; the teacher travels in its checkpoint but is not asked. Training needs every modality of a case.
Each of the two stages gets the whole budget of steps.

From the abstract: teacher, student, one modality at inference. From memory: the constants 0.75, 5, 0.25
and 10 and the form of the bottleneck term.

References:
    Knowledge distillation from multi-modal to mono-modal segmentation networks, Hu et al., MICCAI 2020,
    https://arxiv.org/abs/2106.09564
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import torch
from torch import nn

from maml_toolkit.methods.losses import divergence, known
from maml_toolkit.methods.method import Method, Segmentation, Stage
from maml_toolkit.networks.unet import Heads, UNet
from maml_toolkit.system.shapes import Image, Labels, Scalar


class KDNet(Method):
    """A multi-modal teacher and mono-modal students.

    Args:
        modalities, classes, unet: as for every Method.
        students: the modalities that get a student; all when left out.
        temperature, imitation_weight, bottleneck_weight: 5, 0.75 and 10 from memory; the labels weigh
            1 - imitation_weight.

    Raises:
        ValueError: a student of an unknown modality, or a number out of its range.
    """

    name, stacked, tells_each = "kdnet", "teacher", True

    def __init__(self, modalities: Sequence[str], classes: int, *, students: Sequence[str] | None = None,
                 temperature: float = 5.0, imitation_weight: float = 0.75, bottleneck_weight: float = 10.0, **unet):
        super().__init__(modalities, classes, own={
            "students": students, "temperature": temperature, "imitation_weight": imitation_weight,
            "bottleneck_weight": bottleneck_weight}, **unet)
        if temperature <= 0 or not 0 <= imitation_weight <= 1 or bottleneck_weight < 0:
            raise ValueError(f"found temperature={temperature}, imitation_weight={imitation_weight} and "
                             f"bottleneck_weight={bottleneck_weight}; expected more than 0, 0 to 1, and 0 or more")
        wanted = self.modalities if students is None else students
        if not wanted or isinstance(wanted, str) or set(wanted) - set(self.modalities):
            raise ValueError(f"found students={students}, expected a list of some of {list(self.modalities)}")
        self.temperature = temperature
        self.imitation_weight, self.bottleneck_weight = imitation_weight, bottleneck_weight
        self.teacher = UNet(len(self.modalities), *self.plan)
        self.teacher_heads = Heads(self.plan[0], self.outputs, self.deep_supervision)
        self.students = nn.ModuleDict({name: UNet(1, *self.plan) for name in self.modalities if name in wanted})
        self.heads = nn.ModuleDict({name: Heads(self.plan[0], self.outputs, self.deep_supervision)
                                    for name in self.students})

    def accepts(self, present: Set[str]) -> bool:
        """One modality that has a student."""
        return len(present) == 1 and set(present) <= set(self.students)

    def learns_from(self, present: Set[str]) -> bool:
        """All modalities, which the teacher sees."""
        return set(present) == set(self.modalities)

    def stages(self) -> list[Stage]:
        """The teacher, then the students."""
        return [Stage("teacher", self.teacher_loss,
                      [*self.teacher.parameters(), *self.teacher_heads.parameters()]),
                Stage("students", self.loss, [*self.students.parameters(), *self.heads.parameters()])]

    def forward(self, images: dict[str, Image]) -> Segmentation:
        """The student's answer from the one modality in `images`."""
        ((name, image),) = self.checked(images).items()
        head = self.heads[name].finest
        logits = head(self.students[name](image)[0])
        return Segmentation(logits, {name: logits}, bias=head.bias, activation=self.activation)

    def teacher_loss(self, images: dict[str, Image], labels: Labels, generator: torch.Generator) -> dict[str, Scalar]:
        """Dice + cross-entropy of the teacher: `teacher` and `total`, the same."""
        stacked = torch.cat(list(self.checked(images, training=True).values()), dim=1)
        loss = self.supervised(self.teacher_heads(self.teacher(stacked)), labels)
        return {"teacher": loss, "total": loss}

    def loss(self, images: dict[str, Image], labels: Labels, generator: torch.Generator) -> dict[str, Scalar]:
        """`imitation/…`, `segmentation/…` and `bottleneck/…` of each student, and their weighted sum `total`."""
        images = self.checked(images, training=True)
        with torch.no_grad():
            skips = self.teacher.encoder(torch.cat(list(images.values()), dim=1))
            taught, target = skips[-1], self.teacher_heads.finest(self.teacher.decoder(skips)[0])
        terms = {}
        for name, student in self.students.items():
            skips = student.encoder(images[name])
            answers = self.heads[name](student.decoder(skips))
            terms[f"imitation/{name}"] = self.activation.imitation(target, answers[0], self.temperature,
                                                                    known(labels))
            terms[f"segmentation/{name}"] = self.supervised(answers, labels)
            terms[f"bottleneck/{name}"] = divergence(taught, skips[-1])
        weights = {"imitation": self.imitation_weight, "segmentation": 1 - self.imitation_weight,
                   "bottleneck": self.bottleneck_weight}
        return terms | {"total": sum(weights[name.partition("/")[0]] * term for name, term in terms.items())}
