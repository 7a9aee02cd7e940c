"""How to extract the features of frozen encoders, and how to store them on disk."""
