"""proxy/warm.py: connections are there before anyone asks, and are opened anew where an upstream closed them."""
from __future__ import annotations

import asyncio

from farthing.settings import Deployment
from proxy.counters import Counters
from proxy.upstream import Client
from proxy.warm import Warmth
from tests.ports import free_port
from tests.proxy.rig import answer_of, read_request, reply


class Server:
    """Answers every request, and counts its connections."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while True:
                await read_request(reader)
                writer.write(reply(answer_of()))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.005)


def test_connections_are_open_before_the_first_request_and_come_back_when_they_are_closed() -> None:
    async def act() -> None:
        server = Server()
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
        counters, client = Counters(), Client()
        deployment = Deployment("m", url, name="m/1", warm_connections=3)
        warmth = Warmth(client, [deployment, Deployment("n", url + "/cold", name="n/1")], counters, interval_s=0.01)
        warmth.start()
        await until(lambda: len(server.writers) == 3 == counters.warmed)
        response = await client.request("POST", f"{url}/chat/completions", b"{}")
        await response.read()
        assert len(server.writers) == 3  # it travelled on one of them
        for writer in server.writers[:]:
            writer.close()
        await until(lambda: len(server.writers) == 6 == counters.warmed)
        await warmth.stop()
        client.close()
        listening.close()
        await until(lambda: all(writer.transport.is_closing() for writer in server.writers))

    asyncio.run(act())


def test_a_deployment_that_is_away_is_tried_again_and_keeps_nobody() -> None:
    async def act() -> None:
        server, counters, client, port = Server(), Counters(), Client(), free_port()
        deployment = Deployment("m", f"http://127.0.0.1:{port}/v1", name="m/1", warm_connections=1)
        warmth = Warmth(client, [deployment], counters, interval_s=0.01)
        warmth.start()
        await asyncio.sleep(0.03)
        assert counters.warmed == 0
        back = await asyncio.start_server(server.serve, "127.0.0.1", port)
        await until(lambda: counters.warmed == 1)
        await warmth.stop()
        client.close()
        back.close()
        await until(lambda: all(writer.transport.is_closing() for writer in server.writers))

    asyncio.run(act())
