"""One module a product: its client, its worker, and the workflows in its own words. Run in the product's own environment."""
