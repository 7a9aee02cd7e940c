"""Which layers of two encoders to align."""
