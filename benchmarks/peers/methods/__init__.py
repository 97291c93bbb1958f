"""One method a file: `METHODS`, each with its paper. A new file here is found by its name."""
