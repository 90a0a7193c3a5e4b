"""The warehouse: its tables as numbered migrations, its questions as `.sql` files, and one client for both."""
from farthing.warehouse.client import Warehouse

__all__ = ["Warehouse"]
