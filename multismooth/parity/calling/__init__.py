"""Calling a loss that nobody here has seen: how its arguments go in, and how its gradient comes out."""
