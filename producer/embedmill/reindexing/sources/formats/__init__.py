"""Formats of records: JSONL, lines, JSON, CSV, Parquet and tables of Arrow."""
