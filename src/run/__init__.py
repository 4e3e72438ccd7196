"""Carry out one command: build, train a task, score, chain, plan, classify, export."""
