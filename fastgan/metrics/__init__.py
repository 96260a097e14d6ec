"""Scores of generated images, and detection of mode collapse."""
