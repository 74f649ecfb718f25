"""Models for others: a folder, or a repository on huggingface.co, that holds what an answer needs and nothing more.

    README.md                         the model card (card.py)
    settings.json                     method, task and trainer of the run, without ids of cases
    checkpoints/best-step-…/          what checkpoints.py writes of weights and method
    scores.csv                        what was measured, over cases
    SHA256SUMS                        of every file but the card, in the format of `sha256sum --check`

It is a run folder that `Predictor.load` and the jobs read like any other. What is left behind: the state of the
training, which is a pickle, and whatever names cases: their ids, the table of each case, the executed notebooks.

Reading one executes nothing: weights are safetensors, the rest is JSON, and a method is one of METHODS by name. The
sums find files that were damaged on their way or do not belong together, not an author who lies: whoever changes a
file can change its sum. A commit of the hub (`hf://owner/name@commit`) pins what was looked at.
"""

from maml_toolkit.sharing.folder import CARD, check_name, from_pretrained, is_shared, save_pretrained, upload

__all__ = ["CARD", "check_name", "from_pretrained", "is_shared", "save_pretrained", "upload"]
