"""Figures as data: what a page's own script draws at the width that it has."""
