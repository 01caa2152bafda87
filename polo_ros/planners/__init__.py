"""What to do next: samplers over a dynamics model and an objective."""
