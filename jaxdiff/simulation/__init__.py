"""Paths drawn at random: of what diffuses, and of what jumps."""
