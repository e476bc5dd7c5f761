"""From score files to tables, plots, a report and a submission."""
