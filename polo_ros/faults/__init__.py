"""Faults put into sessions on purpose: cases, the oracle that judges them, what may be lost, the campaign."""
