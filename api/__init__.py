"""HTTP: the dialects that other programs speak, and the rules that all of them share."""
