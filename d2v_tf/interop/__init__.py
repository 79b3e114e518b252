"""Weights of other libraries, in and out. Every key map is a table of data, one file a format."""
