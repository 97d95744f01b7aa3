"""Models of the protocol for spin, and the script that has them checked."""
