"""Kernels of our own for the networks of a picture, compiled where there is a compiler for C."""
