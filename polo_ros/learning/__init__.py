"""What to remember: value ensembles, their targets, their learner and its checkpoints."""
