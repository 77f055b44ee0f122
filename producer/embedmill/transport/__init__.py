"""How it gets there: connections to Redis, deadlines, retries and foreign errors."""
