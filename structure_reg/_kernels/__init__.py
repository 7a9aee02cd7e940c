"""Losses a tile at a time: forward and gradient by hand, in memory that n does not square."""
