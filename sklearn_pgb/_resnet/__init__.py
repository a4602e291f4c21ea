"""ResNet-basis models: residual units on a basis, trained by variable projection."""
