"""Connections to PostgreSQL: how they are made, what their errors mean, and what they never tell.

A connection string may hold a password. It stays in the object that was given it: it is in no
error, no split, no committable and no ``repr``. What the server says of a row that it refuses may
quote the row, so of such errors only the kind is passed on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from flowsnap.connectors.refusal import RowsRefused
from flowsnap.errors import ConfigError, FlowsnapError, OutputRefused, StoreUnavailable

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
except ImportError as error:
    raise ConfigError("the connectors of PostgreSQL need psycopg 3").hint(
        'install it: pip install "flowsnap[postgres]"'
    ) from error

Connection = psycopg.Connection[tuple[Any, ...]]

DEFAULTS = {
    "connect_timeout": "5",  # s
    "keepalives_idle": "10",  # s
    "keepalives_interval": "5",  # s
    "tcp_user_timeout": "20000",  # ms: a connection that has died is noticed
    "application_name": "flowsnap",
}

SETTINGS = """
    set idle_in_transaction_session_timeout = '60s';
    set lock_timeout = '10s';
    set synchronous_commit = on;
"""
"""A paused process must not hold locks on markers for ever, nor wait for those of another; and a
commit that was answered is reported as done: a crash of the server must not undo it."""

_PASSING_CLASSES = frozenset({"08", "40", "53", "57", "58"})
_PASSING = frozenset({"25006", "25P03", "55006", "55P03"})
"""SQLSTATEs (appendix A of the manual) of what may be over at the next try: connection lost, rolled
back, out of resources, shut down, I/O error; read-only, as a standby is just before it takes over;
timed out in a transaction; in use; locked."""

_QUOTES_ROWS = frozenset({"22", "23"})
"""Classes of errors whose text may quote what a record holds."""


_OF_ROWS = frozenset({"22", "23", "44", "P0"})
"""Classes of what rows are refused for: their data, a constraint, a view's check, a trigger."""


class Dsn:
    """A connection string: what it holds is not shown.

    Raises:
        ConfigError: it is none. Nothing of it is quoted, as a part might be the password.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        try:
            given = conninfo_to_dict(text)
        except (psycopg.Error, AttributeError, TypeError):
            raise ConfigError("the connection string of PostgreSQL is malformed").hint(
                'write "host=db user=me dbname=shop" or "postgresql://me@db/shop"; characters such '
                "as @ or / in the password of the second form are written %40 and %2F"
            ) from None
        self._text = make_conninfo("", **{**DEFAULTS, **given})

    def __repr__(self) -> str:
        return f"<Dsn of {self}>"

    def __str__(self) -> str:
        """Return what may be told: the host and the database."""
        given = conninfo_to_dict(self._text)
        return f"{given.get('host', 'the local server')}/{given.get('dbname', 'the default')}"

    def connect(self, *, replication: bool = False) -> Connection:
        """Return a connection that commits by itself, but for explicit transactions.

        With ``replication``, one that speaks the protocol of replication, in simple queries only.

        Raises:
            StoreUnavailable: the server cannot be reached, or does not let us in.
        """
        with self.translated():
            more = {"replication": "database"} if replication else {}
            connection = psycopg.connect(make_conninfo(self._text, **more), autocommit=True)
            if not replication:
                connection.execute(SETTINGS)
        return connection

    @contextmanager
    def asked(self, what: str) -> Iterator[Connection]:
        """Give a connection for questions while a job is submitted; ``what`` is to be read.

        Raises:
            ConfigError: the server is not there, or refuses.
        """
        try:
            with closing(self.connect()) as db, self.translated():
                yield db
        except (StoreUnavailable, OutputRefused) as error:
            raise ConfigError(f"{what} cannot be read: {error}") from error

    @contextmanager
    def translated(self, what: str = "") -> Iterator[None]:
        """Turn what psycopg raises into StoreUnavailable or OutputRefused."""
        try:
            yield
        except psycopg.Error as error:
            raise _as_ours(error, f"{self}{what and ', '}{what}") from error


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what psycopg raises about the content of rows into RowsRefused.

    It has what the server says, which may quote a value: it is to go where the row goes, and into
    no log.
    """
    try:
        yield
    except psycopg.Error as error:
        state = error.sqlstate or ""
        # What psycopg itself does not send, a NUL in a text, has no state.
        if state[:2] in _OF_ROWS or (not state and isinstance(error, psycopg.DataError)):
            said = error.diag.message_primary or str(error).strip().partition("\n")[0]
            raise RowsRefused(f"{type(error).__name__}: {said}") from None
        raise


def _as_ours(error: psycopg.Error, what: str) -> FlowsnapError:
    kind, state = type(error).__name__, error.sqlstate or ""
    text = error.diag.message_primary or str(error).strip().partition("\n")[0]
    if state[:2] in _QUOTES_ROWS:
        text = f"{error.diag.constraint_name or error.diag.column_name or ''}".strip()
    message = f"{what}: {kind}{state and f' ({state})'}{text and ': '}{text}"
    is_unknown = not state and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    if is_unknown or state in _PASSING or state[:2] in _PASSING_CLASSES:
        return StoreUnavailable(message).hint("is the server up, and does it let this user in?")
    return OutputRefused(message).hint(
        "the checkpoint keeps the rows: mend the table and start the job again, without fresh"
    )
