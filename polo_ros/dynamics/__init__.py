"""What would happen: rollouts in MuJoCo models, and in a learned ensemble."""
