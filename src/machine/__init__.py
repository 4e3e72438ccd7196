"""The machine: devices, processes, files, interruption, progress."""
