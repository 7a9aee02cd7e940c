"""From features of two frozen encoders to an aligned model."""
