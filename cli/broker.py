"""What `pgferry broker …` does; imported by the command that needs it, for it loads an AMQP library."""

from cli.run import CannotDo, refuse_url
from shared.messaging.connection import BROKER_ERRORS, connected
from shared.messaging.declare import declare


async def declare_topology(url: str) -> None:
    """Raises CannotDo when the broker cannot be used, Fatal when it has other arguments."""
    try:
        async with connected(url, name="pgferry-cli") as connection:
            await declare(connection)
    except BROKER_ERRORS as error:
        raise CannotDo(f"the broker cannot be used: {type(error).__name__}: {error}") from error
    except ValueError:
        refuse_url("AMQP_URL")
