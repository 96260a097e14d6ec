"""Makes the figures and tables of the documentation's pages."""
