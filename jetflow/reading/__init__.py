"""What clients look up: lists, changes, histories, exports, reasons."""
