"""Images: drawn in batches on one device or several, in folders from which a later run resumes."""
