"""An experiment of another package: what its trials do in processes of their own."""
