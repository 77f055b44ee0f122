"""int8 graphs whose vectors do not depend on their batch."""
