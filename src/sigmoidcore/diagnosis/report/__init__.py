"""How a diagnosis is shown: as text, as a table, as a page, as figures. Nothing is measured or judged here."""
