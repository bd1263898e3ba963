"""Training: the same recipe gives the same model, exactly once."""
