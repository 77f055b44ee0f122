"""What lies in a model's files."""
