"""Pictures of compressed models and of runs."""
