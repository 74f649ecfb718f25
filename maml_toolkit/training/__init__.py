"""From prepared cases to a run folder: the loop, its data, several processes, resuming, and a plan of all that."""
