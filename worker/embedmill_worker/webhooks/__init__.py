"""Webhooks: signed requests that report the end of a job, sent at least once and only to addresses that are allowed."""
