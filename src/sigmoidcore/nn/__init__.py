"""Networks of cores and recurrent layers of cores."""
