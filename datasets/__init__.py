"""The datasets: catalog, clips, labels, features, downloads."""
