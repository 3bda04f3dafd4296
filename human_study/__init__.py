"""Blinded side-by-side preference studies in the browser."""
