"""Calls a loss of any framework with NumPy arrays and brings its loss and gradient back as NumPy arrays."""
