"""What the experiments compute."""
