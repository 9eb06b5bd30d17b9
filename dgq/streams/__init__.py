"""Forward passes that wait for each other at each target, and where their tensors wait."""
