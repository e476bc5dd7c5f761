"""Everything around the method: metrics, result files, plots, summary, demo data."""
