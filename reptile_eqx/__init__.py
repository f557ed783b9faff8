"""First-order meta-learning in JAX: Reptile and its relatives, and the experiments of the paper that named it."""
