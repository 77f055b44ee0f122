"""The commands of ``embedmill``, a module for each."""
