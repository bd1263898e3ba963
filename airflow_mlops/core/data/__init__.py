"""Data: sources, versioned datasets, contracts, profiles, features."""
