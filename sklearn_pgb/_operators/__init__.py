"""Linear operators: basis matrices with products, adjoints and kernels."""
