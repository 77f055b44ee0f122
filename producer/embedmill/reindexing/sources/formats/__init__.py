"""Formats of records. Each is a module that is found by itself: no list names it.

Its ``FORMS`` maps a word to a ``base.Form``: ``--format word`` reads files in that form, and the ``Form`` says which
files have it by their ending or beginning. All modules are loaded together, so one that needs a library loads it only
when it reads a file, as ``parquet`` does.
"""
