"""What trained generators are judged by."""
