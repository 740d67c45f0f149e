"""What-if: the same windows simulated from other inputs, compared, and never stored."""
