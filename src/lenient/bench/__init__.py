"""Grids of runs: many rows, teachers and seeds under one protocol, and what they come to."""
