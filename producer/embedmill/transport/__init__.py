"""The transport to Redis: connections, deadlines, retries, and redis-py's errors as embedmill's."""
