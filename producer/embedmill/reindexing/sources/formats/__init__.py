"""What a file of records may be, each form in a module that is found by itself and named in no list.

Its ``FORMS`` says ``{"word": Form(…)}``: ``--format word`` reads files so, and ``base.Form`` says which are read so by
themselves. All modules are loaded together: one that needs a library loads it when a file is met, as ``parquet`` does.
"""
