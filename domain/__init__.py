"""What is true whatever the machine: standard library only, no I/O, no clock, no asyncio."""
