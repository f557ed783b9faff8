"""Trains anything, on any machine, and keeps it: devices, programs, checkpoints, records. It knows no paper."""
