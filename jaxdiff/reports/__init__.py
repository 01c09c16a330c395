"""A fit told in words, numbers, pictures and one HTML page."""
