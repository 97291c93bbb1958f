"""A diagnosis as text, page, table and JSON. Nothing is measured here."""
