"""What planning and a session cost, measured: `polo bench`."""
