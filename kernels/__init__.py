"""Compiled kernels and the printers that write them."""
