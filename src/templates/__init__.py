"""Prompt templates: lists of strings, "{c}" is the class name; the first of each list is the training prompt."""
