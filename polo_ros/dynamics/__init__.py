"""What would happen: MuJoCo rollouts and, later, learned models."""
