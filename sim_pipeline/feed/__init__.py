"""The two use cases of the feed: simulate what is missing, publish what is pending."""
