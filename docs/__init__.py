"""Pages that people read; docs.make draws their figures and tables."""
