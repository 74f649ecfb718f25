"""An experiment: systems x folds x seeds, each trained once with the same budget, measured into one table.

    <folder>/splits.json                       who trains and who tests
             runs/<system>-fold-0-seed-0/      a run (runs.py) with its table, comparison.csv
             comparison.csv                    the tables of all runs; its column `method` holds the system's name

What is trained is not trained again and what is measured is not measured again, so an experiment that was
stopped, or that gets another system or seed, goes on where it stands. Other folds are another experiment.
"""

from maml_toolkit.experiments.running import System, papers_systems, rescued, run, run_name

__all__ = ["System", "papers_systems", "rescued", "run", "run_name"]
