"""Retraining: whether it would help, decided from evidence and put on record."""
