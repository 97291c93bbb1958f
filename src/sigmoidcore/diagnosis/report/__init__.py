"""A diagnosis as text, page, table and JSON. Nothing is measured here."""

from sigmoidcore.diagnosis.report.json import to_json
from sigmoidcore.diagnosis.report.page import to_html, to_notebook
from sigmoidcore.diagnosis.report.text import to_text, verdict

__all__ = ["to_html", "to_json", "to_notebook", "to_text", "verdict"]
