"""The shapes of the tensors that travel between files, by name.

The annotations document; they are checked only while testing (tests/conftest.py installs the checker).
Sizes that share a letter in one signature agree: b batch, c channels, k classes, d h w the three axes of
the volume in the order of its file.
"""

from jaxtyping import Float, Integer
from torch import Tensor

Image = Float[Tensor, "b 1 d h w"]
"""One modality, normalised."""
Features = Float[Tensor, "b c d h w"]
"""What a network holds for each voxel."""
Logits = Float[Tensor, "b k d h w"]
"""Scores of the classes before the softmax."""
Labels = Integer[Tensor, "b d h w"]
"""Class of each voxel, 0 to classes - 1; as uint8 it may also say what is open, as in data/label_sets.py."""
Scalar = Float[Tensor, ""]
"""A loss or one of its terms."""
