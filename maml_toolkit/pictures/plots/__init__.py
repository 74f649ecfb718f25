"""Pictures of cases, predictions, runs and tables, in one look, drawn into the axes that they are given."""

from maml_toolkit.pictures.plots.comparison import differences, side_by_side
from maml_toolkit.pictures.plots.registration import registration_check
from maml_toolkit.pictures.plots.slices import attention_maps, case_slices, contribution_maps
from maml_toolkit.pictures.plots.tables import learning_curves, scores
from maml_toolkit.pictures.plots.worth import shapley_bars, share_bars

__all__ = ["attention_maps", "case_slices", "contribution_maps", "differences", "learning_curves", "registration_check",
           "scores", "shapley_bars", "share_bars", "side_by_side"]
