"""Certificates: what is known of a trained network, and why."""
