"""Jobs of the gateway's callers: ids, entries beside the records, events of progress, webhooks that are due."""
