"""The client's side of a job's life: pure functions, and flows of round trips that any transport runs."""
