"""Diagnose: measure any network, say in words what is wrong and what to do."""
