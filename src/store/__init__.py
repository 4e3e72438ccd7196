"""What a run leaves behind and takes up again: records, checkpoints, resume points, trackers."""
