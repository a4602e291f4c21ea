"""Local geometry of a network: kinks, rank and directions of equal outputs."""
