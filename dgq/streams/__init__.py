"""Forward passes that wait together at each target, and where their tensors wait."""
