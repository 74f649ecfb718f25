"""What a method's answers are worth: measured into one tidy table, summarised, compared, printed as papers print."""

from maml_toolkit.evaluation.comparing import compare, gap
from maml_toolkit.evaluation.explaining.maps import map_scores, map_summary
from maml_toolkit.evaluation.fitting import fit_expected_dice, fit_policy, fit_smallest
from maml_toolkit.evaluation.measuring import compare_regions, evaluate
from maml_toolkit.evaluation.subset_table import subset_table
from maml_toolkit.evaluation.table import COLUMNS, formatted, metrics_of, summary
from maml_toolkit.evaluation.worth import agreement, shapley, shapley_by_case, shares

__all__ = ["COLUMNS", "agreement", "compare", "compare_regions", "evaluate", "fit_expected_dice", "fit_policy",
           "fit_smallest", "formatted", "gap", "map_scores", "map_summary", "metrics_of", "shapley", "shapley_by_case",
           "shares", "subset_table", "summary"]
