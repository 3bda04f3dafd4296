"""Timings beside the usual way of doing it; no part of the tests."""
