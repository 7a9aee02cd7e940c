"""What to minimise: differentiable, lower is better, one idea a file, function and module in it."""
