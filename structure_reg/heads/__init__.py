"""Heads that map frozen features to a shared space: trained, or fitted in closed form."""
