"""Long documents cut into parts, by tokens."""
