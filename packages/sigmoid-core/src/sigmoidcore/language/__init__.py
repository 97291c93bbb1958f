"""The texts of Sigmoid Core in the user's language: the catalogue `zh.mo` beside this file, in the hands of `unstuck`."""

from unstuck.language import LANGUAGES, VARIABLE, _, add_catalogue, language, speaking

add_catalogue(__name__)

__all__ = ["LANGUAGES", "VARIABLE", "_", "language", "speaking"]
