"""Planning: compares records with the ledger of a sink to find out what to embed and what to delete."""
