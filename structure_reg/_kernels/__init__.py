"""Hand-written forward and backward passes, one idea a file, each equal to its plain form."""
