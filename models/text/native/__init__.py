"""A decoder's whole step in C, for CPUs that multiply bytes in vectors (AVX-512 VNNI)."""
