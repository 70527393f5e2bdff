"""The process and its machine: memory, caches, matmul precision, compilers, private APIs."""
