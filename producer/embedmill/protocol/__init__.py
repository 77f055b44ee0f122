"""What lies in Redis: values and their bytes, keys and scripts. No I/O; nothing here knows a connection."""
