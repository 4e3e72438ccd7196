"""What a run leaves behind and later reads again: records, checkpoints, resume points, trackers."""
