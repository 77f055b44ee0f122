"""The APIs that the gateway speaks: each shapes bodies, replies and errors of its own."""
