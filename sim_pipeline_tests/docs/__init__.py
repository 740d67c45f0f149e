"""Documents under docs/ do what they say."""
