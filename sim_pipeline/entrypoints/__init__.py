"""Small programs that containers run."""
