"""Messages in another language than English: which one, and what is translated."""

import pytest
from sigmoidcore._language import VARIABLE, language


def test_the_language_is_english_unless_the_environment_asks_for_another(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert language() == "en"
    for asked in ("zh", "zh_CN.UTF-8", "zh-Hans", "ZH"):
        monkeypatch.setenv(VARIABLE, asked)
        assert language() == "zh"


def test_an_unknown_language_is_an_error_with_the_choice(monkeypatch):
    monkeypatch.setenv(VARIABLE, "fr")
    with pytest.raises(ValueError, match="SIGMOIDCORE_LANG is 'fr': set it to en or zh"):
        language()
