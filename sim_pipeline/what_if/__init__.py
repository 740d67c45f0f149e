"""What other inputs would give: simulated beside what the current ones give, and never stored."""
