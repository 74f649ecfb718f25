"""From a trained run to answers: run folders, checkpoints, one case, and many cases in shards."""
