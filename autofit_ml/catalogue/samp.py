"""Tables to TOPCAT, Aladin and other programs that run beside this one, by SAMP."""

import contextlib
import tempfile
import warnings
from pathlib import Path

import pyarrow as pa

from autofit_ml.catalogue.atomic import atomic_write_bytes
from autofit_ml.catalogue.votable import votable_bytes
from autofit_ml.errors import InputError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # astropy 8 announces that this part moves to pyvo
    from astropy.samp import SAMPHubError, SAMPIntegratedClient, SAMPProxyError

__all__ = ["send_table"]

_MESSAGE = "table.load.votable"
_START = "start TOPCAT or Aladin (each brings a SAMP hub), then run the same command again"
_SECONDS = 60


def send_table(table: pa.Table, name: str) -> list[str]:
    """Send a table to every program on the SAMP hub that loads tables.

    Parameters
    ----------
    table : pyarrow.Table
    name : str
        Shown by the programs.

    Returns
    -------
    list of str
        The programs that took it.

    Raises
    ------
    InputError
        No hub is running, or no program on it takes tables.
    """
    client = SAMPIntegratedClient("autofit-ml", metadata={"samp.name": "autofit-ml"})
    try:
        client.connect()
    except SAMPHubError as error:
        raise InputError("no SAMP hub is running", _START) from error
    try:
        takers = list(client.get_subscribed_clients(_MESSAGE))
        if not takers:
            raise InputError("no program on the SAMP hub takes tables", _START)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.vot"
            atomic_write_bytes(path, votable_bytes(table))
            content = {"url": path.as_uri(), "table-id": f"autofit-ml {name}", "name": name}
            message = {"samp.mtype": _MESSAGE, "samp.params": content}
            took = []
            for taker in takers:  # each has read the file when it answers
                with contextlib.suppress(SAMPProxyError):
                    answer = client.call_and_wait(taker, message, str(_SECONDS))
                    if answer.get("samp.status") != "samp.error":
                        took.append(client.get_metadata(taker).get("samp.name", taker))
    finally:
        client.disconnect()
    if not took:
        raise InputError("no program on the SAMP hub took the table", "look at their messages")
    return took
