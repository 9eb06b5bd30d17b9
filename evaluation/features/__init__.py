"""What networks see in images, and in the real ones that they are compared with."""
