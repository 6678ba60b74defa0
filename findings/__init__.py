"""The document of what the studies found: text, tables and figures from committed rows."""
