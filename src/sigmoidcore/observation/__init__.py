"""What reaches a core and what comes back to it."""
