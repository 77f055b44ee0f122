"""The sinks that come with embedmill.

The module WORD serves ``--to WORD:…`` and ``--to FILE.WORD``, as its ``SINKS`` says: ``{"WORD:": Class}`` is called
with the whole name, ``{".WORD": Class}`` with the file's ``Path``. It is loaded, with the library that it needs, when
it is named so; no list names it besides. ``base.Sink`` says what the class promises.
"""
