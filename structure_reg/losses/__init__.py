"""What to minimise: differentiable losses, lower is better; function and module share one file."""
