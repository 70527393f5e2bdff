"""The command line, its tables and its progress bars."""
