"""How alike two sets of features are: higher is more alike, one value per batch."""
