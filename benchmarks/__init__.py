"""What DGQ costs and brings, measured: commands of their own, run as scripts."""
