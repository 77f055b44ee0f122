"""The worker's side of a job: claims, work, commits, and recovery of what was lost."""
