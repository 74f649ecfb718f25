"""A case to look through in a notebook: linked slices, maps of each scan, and what changes when a scan is missing."""

from maml_toolkit.widgets.explorer import Explorer, explore

__all__ = ["Explorer", "explore"]
