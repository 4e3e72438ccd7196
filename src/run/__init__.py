"""What one command does: build, train a task, score, chain, plan, classify, export."""
