"""A diagnosis as text, page, table and JSON. Nothing is measured here."""

from sigmoidcore.diagnosis.report.json import from_json, to_json
from sigmoidcore.diagnosis.report.page import to_html, to_notebook
from sigmoidcore.diagnosis.report.table import data_frame
from sigmoidcore.diagnosis.report.text import to_text, verdict

__all__ = ["data_frame", "from_json", "to_html", "to_json", "to_notebook", "to_text", "verdict"]
