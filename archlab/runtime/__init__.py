"""This process and its machine: memory, caches, matmul modes, compilers."""
