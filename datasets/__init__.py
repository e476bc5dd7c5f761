"""Facts about the datasets, their clips, and the clips' features."""
