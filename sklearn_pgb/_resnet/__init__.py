"""ResNet-basis models: residual units on top of any basis, by variable projection."""
