"""Losses with gradients, Hessians, conjugates and floors."""
