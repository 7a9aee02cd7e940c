"""How good an alignment is: measured, not trained on; ties and collapsed heads score chance."""
