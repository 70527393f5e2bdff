"""What a search or a run showed, as one offline page."""
