"""The sinks that come with embedmill."""
