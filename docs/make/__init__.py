"""Draws the figures and tables of the pages."""
