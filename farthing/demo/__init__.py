"""The demo: an ordinary application, a day's worth of its calls in small, and the story that governs them."""
