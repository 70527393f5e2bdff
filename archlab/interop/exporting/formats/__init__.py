"""The export formats that ship, one module each."""
