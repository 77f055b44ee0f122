"""Processes on this machine: the embedded server, a worker, and both together."""
