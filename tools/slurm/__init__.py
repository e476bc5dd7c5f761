"""A sweep over machine types, sections and seeds on a Slurm cluster: see docs/cluster.md."""
