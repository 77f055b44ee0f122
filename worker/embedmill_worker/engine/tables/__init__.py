"""Tables of vectors: static models and fastText."""
