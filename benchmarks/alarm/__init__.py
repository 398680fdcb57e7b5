"""The alarm for drift on real conversations: what it detects, and how often it is wrong."""
