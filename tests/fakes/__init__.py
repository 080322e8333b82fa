"""Stand-ins for the outside that keep the ports' contracts: no weights, no threads, no waiting for real time."""
