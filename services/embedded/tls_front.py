"""
TLS in front of a server on this machine that speaks none, as a process of its own.

The Redis of the embedded stack was built without TLS. Production's has its own.
"""

import asyncio
import contextlib
import ssl
import sys

from services.embedded.ports import HOST

CHUNK_BYTES = 1 << 16


async def serve(port: int, behind: int, certificate: str) -> None:
    """Accept TLS on *port* with the key and *certificate* of that file; relay to port *behind*."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # either side has gone: so does the other
            server_reader, server_writer = await asyncio.open_connection(HOST, behind)
            await asyncio.gather(copy(reader, server_writer), copy(server_reader, writer))
        writer.close()

    server = await asyncio.start_server(accept, HOST, port, ssl=context)
    await server.serve_forever()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes until either side has gone, and close the other."""
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
