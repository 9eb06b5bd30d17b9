"""Images: drawn in batches on one device or several, kept in folders that a later run continues."""
