"""The commands of ``embedmill``, a module for each, which is found by itself.

A command's ``add`` adds its parser, made by ``flags.command``. A module with an underscore in its name is a part of the
command that it begins with.
"""
