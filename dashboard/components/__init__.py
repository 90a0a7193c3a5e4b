"""What pages are made of: each module turns records into Dash components and asks nothing."""
