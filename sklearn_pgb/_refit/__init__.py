"""The convex refit of a trained network on its gradient basis."""
