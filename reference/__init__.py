"""The algorithm in NumPy, written to be read. The tests compare the library with it."""
