"""The border between scikit-learn's world and the package's: arrays in, arrays out."""
