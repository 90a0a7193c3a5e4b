"""Alerts: conditions looked at once a minute, told once a period, and kept until they have been told."""
