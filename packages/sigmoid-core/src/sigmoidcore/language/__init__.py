"""The texts of Sigmoid Core in the user's language: `unstuck` finds them in the catalogue `zh.mo` beside this file."""

from unstuck.language import LANGUAGES, VARIABLE, _, add_catalogue, language, speaking

add_catalogue(__name__)

__all__ = ["LANGUAGES", "VARIABLE", "_", "language", "speaking"]
