"""Download, unpack and verify published archives and labels."""
