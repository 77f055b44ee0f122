"""OpenAI's batches: files of request lines, embedded through the queue's bulk lane."""
