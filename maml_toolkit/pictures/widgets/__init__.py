"""A case to look through in a notebook: linked slices or 3-D, maps of each scan, and what changes without it."""

from maml_toolkit.pictures.widgets.backends import View3D, view3d
from maml_toolkit.pictures.widgets.explorer import Explorer, explore

__all__ = ["Explorer", "View3D", "explore", "view3d"]
