"""What must not happen: stale plans, and actions that are not finite or not in range."""
