"""The sources that come with embedmill."""
