"""What to put between the encoders: small modules, trained or fitted in closed form."""
