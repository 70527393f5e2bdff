"""Figures as data, which a page's own script draws at the page's width."""
