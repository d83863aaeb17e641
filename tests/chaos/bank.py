"""Accounts and transfers as workflows, and a worker process that serves them: money must neither vanish nor appear.

An account is told of each movement by a signal, adds it up, and continues as new now and then; a transfer sends two of them.
"""

import asyncio
import logging
import sys
from typing import Any

from jetflow import activity, condition, continue_as_new, search, signal, sleep, workflow
from tests.chaos.app import noted, serve

MOVES_A_GENERATION = 7


@activity
async def book(balance: int, amount: int) -> int:
    noted("book")
    return balance + amount


@workflow
async def account(balance: int, moves: int) -> int:
    """Adds up movements until it is told to close; its user data has the balance and how many there were."""
    search().set({"balance": balance, "moves": moves})
    for _ in range(MOVES_A_GENERATION):
        amount = await condition("move")
        if amount is None:
            return balance
        balance, moves = await book(balance, amount), moves + 1
        search().set({"balance": balance, "moves": moves})
    continue_as_new(balance, moves)
    raise AssertionError("not reached")


@workflow
async def transfer(source: str, target: str, amount: int, pause: str) -> int:
    """Takes from one account and gives to another, with a while between; ends with the commit that gives."""
    await signal(source, "move", -amount)
    await sleep(pause)
    await signal(target, "move", amount)
    return amount


def balance_of(data: dict[str, Any]) -> tuple[int, int]:
    """An account's balance and number of movements, from its user data."""
    return int(data["balance"]), int(data["moves"])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(serve(sys.argv[1], sys.argv[2], [account, transfer], [book]))
