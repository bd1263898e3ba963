"""Evaluation: how good, how sure, and whether that is enough."""
