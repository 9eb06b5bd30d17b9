"""Captions from files, folders, or the hub."""
