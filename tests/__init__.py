"""Tests. Shared stand-ins for the outside live in `tests.fakes`."""
