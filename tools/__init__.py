"""What happens around the method: metrics, result files, pictures, summary, demo data."""
