"""Getting the features of frozen encoders, and keeping them."""
