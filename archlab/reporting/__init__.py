"""Reports of searches and runs, each one offline page."""
