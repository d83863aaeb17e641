"""Writes the dead letters of expired signals, and finds out when the signals of earlier tenures expire."""

from __future__ import annotations

import asyncio
import logging

from jetflow.broker.fencing.fence import TenureOverError
from jetflow.broker.stores.signals import CANCEL, EarlySignal, Stored
from jetflow.core.ids import to_token
from jetflow.core.log_fields import of_tokens
from jetflow.core.times import to_iso
from jetflow.engine import faults
from jetflow.engine.ownership.tenure import Tenure
from jetflow.errors import BrokerError
from jetflow.protocol.headers import EXPIRE, SENDER, header_block

log: logging.Logger = logging.getLogger("jetflow.worker")

TROUBLE = 5.0
"""Seconds before the signals of a workflow are read again after an error."""


async def bury(tenure: Tenure, id_token: str, signal: EarlySignal) -> None:
    """Write the dead letter of an expired signal. The caller removes the signal afterwards."""
    names, queue_token = tenure.context.broker.names, tenure.context.queue_token
    headers: dict[str, str] = {}
    if signal.kept_for is not None:
        headers[EXPIRE.replace("-", "_")] = f"{signal.kept_for}ms"
    if signal.sender is not None:
        headers[SENDER.replace("-", "_")] = f"{signal.sender}/{signal.number}"
    subject = names.command(queue_token, id_token, f"signal.{to_token(signal.signal)}")
    reason = f"the signal expired at {to_iso(signal.expires)}, before the workflow waited for it"
    log.warning("dead letter %s: %s", subject, reason, extra=of_tokens(queue_token, id_token))
    faults.reach("before_letter")
    await tenure.dead_letters.write(subject, bytes(signal.data), header_block(**headers), reason, origin=signal.seq, expired=True)
    faults.reach("after_letter")


async def learn_expiries(tenure: Tenure) -> None:
    """Find out when the signals that were stored before this tenure expire, one workflow after the other."""
    for id_token in tenure.all_early():
        kept: list[Stored] | None = None
        while kept is None:
            try:
                kept = await tenure.signals.load(tenure.context.queue_token, id_token)
            except TenureOverError:
                return
            except BrokerError as error:
                log.debug("the expiry of stored signals is read later: %s", error, extra=of_tokens(tenure.context.queue_token, id_token))
                await asyncio.sleep(TROUBLE)
        expires = [signal.expires for name_token, signal, _ in kept if name_token != CANCEL]
        if expires:
            tenure.lapses.note(id_token, min(expires))
