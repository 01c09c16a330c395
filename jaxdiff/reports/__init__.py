"""Reports of fits: text, numbers, pictures and one HTML page."""
