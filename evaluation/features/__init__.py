"""Features that networks extract from images, and from the real images they are compared with."""
