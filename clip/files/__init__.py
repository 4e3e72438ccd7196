"""Weights and configurations as files: archives, downloads, plain YAML."""
