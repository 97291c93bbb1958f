"""A diagnosis as text, page, table, figures and JSON. Nothing is measured or judged here."""
