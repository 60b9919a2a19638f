"""What is measured of a compressed model."""
