"""What happened: transitions and where they are kept."""
