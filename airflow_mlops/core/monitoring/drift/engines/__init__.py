"""Drift engines: one module each, all behind ``drift.engine.DriftEngine``."""
