"""torch.compile of the streams: encoders, decoders and the attention, each a program; the weights keep their names.

What lies between them (losses, what a method draws) runs as it is written. The first step of a size takes a minute or
two longer. Rounding differs a little. HyperPairing-Net, whose streams read each other within a stage, stays as it is.
"""

from __future__ import annotations

from torch import nn

from maml_toolkit.networks.modality_aware import ModalityAwareModule
from maml_toolkit.networks.unet import Decoder, Encoder


def set_compiled(network: nn.Module, compiled: bool) -> None:
    """Switch it for a network and all that it is made of."""
    for module in network.modules():
        if isinstance(module, Encoder | Decoder | ModalityAwareModule):
            if compiled:
                module.compile(dynamic=False)
            else:
                module._compiled_call_impl = None
