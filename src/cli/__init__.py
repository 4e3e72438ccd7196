"""What a command line may say: flags, values, checks, recipes, protocols. Imports no torch."""
