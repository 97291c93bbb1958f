"""The code of docs/data.md runs, and prints what the page says."""

import re


def test_the_code_of_the_page_runs_and_prints_what_it_says(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (root / "docs" / "data.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.+?)^```", page, flags=re.MULTILINE | re.DOTALL))
    names: dict[str, object] = {}
    exec(code, names)
    printed = capsys.readouterr().out.splitlines()
    promised = re.findall(r"^print\(.+\)  # (.+)$", code, flags=re.MULTILINE)
    for line, expected in zip(printed, promised[:3], strict=False):
        assert line == expected
    metric, value = printed[3].split()
    assert metric == "R2"
    assert float(value) > 0.9
