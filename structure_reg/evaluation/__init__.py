"""Measures of alignment quality, not meant for training; ties and collapsed heads score chance."""
