"""`calibrate` and `prepare`: slopes, shifts and fresh weights before training."""
