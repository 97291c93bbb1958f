"""A diagnosis as one page of HTML that needs no network: `document` puts it together from `panels` and `rows`."""

from sigmoidcore.diagnosis.report.page.document import to_html

__all__ = ["to_html"]
