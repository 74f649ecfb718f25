"""What a method's answers are worth: measured into one tidy table, summarised, compared, printed as papers print."""

from maml_toolkit.evaluation.comparing import compare
from maml_toolkit.evaluation.measuring import COLUMNS, compare_regions, evaluate, formatted, summary

__all__ = ["COLUMNS", "compare", "compare_regions", "evaluate", "formatted", "summary"]
