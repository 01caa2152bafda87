"""The papers' figures and claims, one command each: `polo reproduce NAME`."""
