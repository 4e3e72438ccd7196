"""The machine: device, processes, files, interruption, progress."""
