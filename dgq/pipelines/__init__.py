"""Text-to-image pipelines in folders, on the hub, or in single files."""
