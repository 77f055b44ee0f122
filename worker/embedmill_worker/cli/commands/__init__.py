"""A module a command, found by itself: ``add`` adds its parser, made by ``flags.command``.

A module with an underscore in its name is a part of the command that it begins with.
"""
