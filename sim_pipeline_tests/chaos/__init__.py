"""The whole feed under faults: real servers, real processes, killed and cut at random moments."""
