"""A run: its plan, the models between its stages, and what decides between assignments."""
