"""Score files, tables, plots, the report and the check of a submission."""
