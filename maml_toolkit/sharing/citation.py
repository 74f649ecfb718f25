"""What to cite when a shared model was used."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from maml_toolkit.methods import Method

PAPER = """@inproceedings{zhang2021modality,
  title     = {Modality-aware Mutual Learning for Multi-modal Medical Image Segmentation},
  author    = {Zhang, Yao and Yang, Jiawei and Tian, Jiang and Shi, Zhongchao and Zhong, Cheng and Zhang, Yang and
               He, Zhiqiang},
  booktitle = {Medical Image Computing and Computer Assisted Intervention (MICCAI)},
  year      = {2021},
  url       = {https://arxiv.org/abs/2107.09842}
}"""


def citation(method: Method) -> Iterator[str]:
    """The section of the card: the paper, and the sources of the method where it is another."""
    yield "## Citation"
    yield ""
    yield f"```bibtex\n{PAPER}\n```"
    if method.name != "maml" and (own := references(method)):
        yield ""
        yield f"The method `{method.name}`:"
        yield ""
        yield f"```\n{own}\n```"


def references(method: Method) -> str:
    """What the file of the method names as its sources; empty where it names none."""
    text = sys.modules[type(method).__module__].__doc__ or ""
    lines = text.partition("References:\n")[2].splitlines()
    return "\n".join(line.strip() for line in lines).strip()
