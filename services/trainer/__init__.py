"""The trainer: on a schedule, from the archive to a version that serves."""
