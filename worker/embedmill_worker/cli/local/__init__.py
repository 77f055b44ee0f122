"""Processes on this machine: the embedded server, workers, and both together."""
