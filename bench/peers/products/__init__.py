"""One module a product: how it is installed, and how its servers are started and stopped."""

from bench.peers.products.dbos import DbosOnPostgres, DbosOnSqlite
from bench.peers.products.jetflow import Jetflow
from bench.peers.products.product import Product
from bench.peers.products.restate import Restate
from bench.peers.products.temporal import Temporal

PRODUCTS: dict[str, Product] = {
    product.name: product
    for product in (
        Jetflow(),
        DbosOnPostgres(),
        DbosOnSqlite(),
        Restate(),
        Temporal("temporal", "Temporal"),
        Temporal("temporal-local", "Temporal, local activities", local=True),
        Temporal("temporal-untuned", "Temporal, limits as delivered", raised=False),
    )
}
"""By the name that ``--products`` takes, in the order they are shown."""
