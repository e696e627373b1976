"""The demo: a simulated shop with everything that is real running behind it."""
