"""Hand-written forward and backward passes, one idea per file, each equal to its plain form."""
