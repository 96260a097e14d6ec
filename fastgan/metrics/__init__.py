"""Scores of generated images, and mode collapse."""
