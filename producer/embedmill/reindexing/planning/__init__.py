"""What is to be embedded: records against the ledger of what the sink has, and what has vanished."""
