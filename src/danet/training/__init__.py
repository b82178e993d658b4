"""Training: one loop that is a generator of events; everything else reads its events."""
