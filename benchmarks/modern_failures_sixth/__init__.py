"""Mistakes of modern trainings, each with its repair, and healthy unusual trainings: a sixth collection by strangers.

It was written by three people who had read neither rules nor sources nor the other collections, and was judged once
before anything was mended.
"""
