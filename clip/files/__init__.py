"""Weights and configurations as files: archives, layouts, configurations, downloads, plain YAML."""
