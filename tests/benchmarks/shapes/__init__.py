"""Tests of the shapes world."""
