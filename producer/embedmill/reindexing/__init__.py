"""Reindexing: a corpus of any size through the queue into a sink, again and again."""
