"""Pictures of cases, predictions, runs and tables, in one look, drawn into the axes that they are given."""

from maml_toolkit.pictures.plots.charts import (
    deletion_curves,
    differences,
    learning_curves,
    randomisation_curves,
    scores,
    shapley_bars,
    share_bars,
)
from maml_toolkit.pictures.plots.slices import (
    attention_maps,
    case_slices,
    contribution_maps,
    registration_check,
    side_by_side,
    uncertainty_map,
)

__all__ = ["attention_maps", "case_slices", "contribution_maps", "deletion_curves", "differences", "learning_curves",
           "randomisation_curves", "registration_check", "scores", "shapley_bars", "share_bars", "side_by_side",
           "uncertainty_map"]
