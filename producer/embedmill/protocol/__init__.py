"""The data in Redis: values and their bytes, keys and scripts. No I/O here."""
