"""What clients read: lists, changes, histories, exports, reasons."""
