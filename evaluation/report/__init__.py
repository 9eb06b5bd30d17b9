"""The report: one HTML file with everything in it, to look at and to pass on."""
