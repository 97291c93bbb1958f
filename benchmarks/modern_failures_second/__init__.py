"""Mistakes of modern trainings, each with its repair, and healthy unusual trainings: a second half by strangers.

It was written after the rules US705 to US710, by somebody who had read neither rules nor sources nor the other
collections, and was judged once.
"""
