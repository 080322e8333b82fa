"""The house itself: rooms, arrows, packages, documents."""
