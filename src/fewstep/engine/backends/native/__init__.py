"""Kernels of our own for the UNet and the decoders, compiled where there is a compiler for C. They need no graph and no torch."""
