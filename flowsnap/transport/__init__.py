"""Channels between workers: contract, frame, ZeroMQ, memory."""
