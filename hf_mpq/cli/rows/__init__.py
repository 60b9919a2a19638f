"""The rows that a user names: files, columns, labels, and what becomes of them."""
