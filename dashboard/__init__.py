"""The dashboard: shows what the warehouse answers, and keeps every filter in the URL."""
