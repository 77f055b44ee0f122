"""A job's life as a client sees it: pure steps, and flows of round trips over any transport."""
