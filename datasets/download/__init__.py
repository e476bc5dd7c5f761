"""Published archives and labels: where they are, how they are fetched, unpacked and verified."""
