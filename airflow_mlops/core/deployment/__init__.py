"""Deployment: who is champion, and what it predicts."""
