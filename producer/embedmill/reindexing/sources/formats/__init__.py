"""What a file of records may be: JSONL, lines, JSON, CSV, Parquet and tables of Arrow."""
