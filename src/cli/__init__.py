"""Define the command line: flags, values, checks, recipes, protocols. Imports no torch."""
