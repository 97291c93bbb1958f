"""A diagnosis as text, page, table and JSON. Nothing is measured here."""

from unstuck.report.json import from_json, to_json
from unstuck.report.page import to_html, to_notebook
from unstuck.report.text import to_text, verdict

__all__ = ["from_json", "to_html", "to_json", "to_notebook", "to_text", "verdict"]
