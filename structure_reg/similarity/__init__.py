"""How similar two feature sets are: one value per batch, higher is more similar."""
