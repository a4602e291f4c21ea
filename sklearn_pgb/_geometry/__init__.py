"""Local geometry of a network: kinks, rank and directions with equal outputs."""
