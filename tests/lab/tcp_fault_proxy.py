#!/usr/bin/env python3
"""One process in front of many servers, whose faults are set while it runs. TCP, and UDP for DNS.

usage: tcp_fault_proxy.py CONTROL_PORT NAME=LISTEN_ADDRESS:PORT=TARGET_ADDRESS:PORT[/udp] ...
       tcp_fault_proxy.py --tell CONTROL_PORT 'PATTERN MODE [ARGUMENTS]'

PATTERN is a shell pattern of names: `pg@us-east-1`, `*@us-east-1`, or `*` to cut everything at once. MODE is one of
  ok                     no fault
  delay MS [JITTER_MS]   every chunk, each direction, is held back that long (order kept)
  blackhole              accept, then silence in both directions; what was held is delivered when healed, as TCP would
  blackhole-in           only what clients send is lost on the way
  blackhole-out          only what servers send is
  reset                  end live connections with RST, and new ones as soon as they come
  refuse                 end live connections, and do not listen at all
  status                 changes nothing; prints the faults
"""
import asyncio, fnmatch, random, socket, struct, sys

HELD = {"in": ("blackhole", "blackhole-in"), "out": ("blackhole", "blackhole-out")}


class Link:
    """One listening address in front of one server."""

    def __init__(self, name, listen, target):
        self.name, self.udp = name, target.endswith("/udp")
        self.listen, self.target = split(listen), split(target.removesuffix("/udp"))
        self.mode, self.delay, self.jitter = "ok", 0.0, 0.0
        self.live, self.server = set(), None

    async def open(self):
        if self.udp:
            loop = asyncio.get_running_loop()
            await loop.create_datagram_endpoint(lambda: Datagrams(self), local_addr=self.listen)
        else:
            self.server = await asyncio.start_server(self.serve, *self.listen)

    async def set(self, mode, delay=0.0, jitter=0.0):
        was, self.mode, self.delay, self.jitter = self.mode, mode, delay, jitter
        if mode in ("reset", "refuse"):
            for writer in list(self.live):
                rst(writer)
        if mode == "refuse" and self.server:
            self.server.close()
            self.server = None
        if was == "refuse" and mode != "refuse" and not self.udp:
            await self.open()

    async def holds(self, direction):
        while self.mode in HELD[direction]:
            await asyncio.sleep(0.02)

    async def serve(self, reader, writer):
        if self.mode == "reset":
            return rst(writer)
        self.live.add(writer)
        try:
            await self.holds("in")                     # a connection made into a partition reaches nobody
            try:
                server_reader, server_writer = await asyncio.open_connection(*self.target)
            except OSError:
                return rst(writer)
            self.live.add(server_writer)
            try:
                await asyncio.gather(self.pump(reader, server_writer, "in"), self.pump(server_reader, writer, "out"))
            finally:
                self.live.discard(server_writer)
                server_writer.close()
        finally:
            self.live.discard(writer)
            writer.close()

    async def pump(self, reader, writer, direction):
        loop, queue = asyncio.get_running_loop(), asyncio.Queue()

        async def send():
            while (item := await queue.get()) is not None:
                due, data = item
                await asyncio.sleep(max(0.0, due - loop.time()))
                await self.holds(direction)
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()

        sender = asyncio.create_task(send())
        try:
            while data := await reader.read(65536):
                queue.put_nowait((loop.time() + (self.delay + random.uniform(0, self.jitter)) / 1000, data))
            queue.put_nowait(None)
            await sender
        except OSError:
            rst(writer)                                # what one side broke off is broken off for the other
        finally:
            sender.cancel()


class Datagrams(asyncio.DatagramProtocol):
    """Each question to the server gets a socket of its own, so that answers find their way back."""

    def __init__(self, link):
        self.link = link

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, client):
        asyncio.ensure_future(self.ask(data, client))

    async def ask(self, data, client):
        link = self.link
        if link.mode in ("reset", "refuse", *HELD["in"]):
            return
        loop = asyncio.get_running_loop()
        answer = loop.create_future()

        class Answer(asyncio.DatagramProtocol):
            def datagram_received(self, reply, _):
                if not answer.done():
                    answer.set_result(reply)

        transport, _ = await loop.create_datagram_endpoint(Answer, remote_addr=link.target)
        try:
            transport.sendto(data)
            reply = await asyncio.wait_for(answer, 10)
            await asyncio.sleep((link.delay + random.uniform(0, link.jitter)) / 1000)
            if link.mode in ("ok", "delay", "blackhole-in"):
                self.transport.sendto(reply, client)
        except asyncio.TimeoutError:
            pass
        finally:
            transport.close()


def rst(writer):
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:         # not closed already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def split(address):
    host, port = address.rsplit(":", 1)
    return host, int(port)


async def command(links, line):
    pattern, mode, *arguments = line.split()
    chosen = [link for link in links if fnmatch.fnmatchcase(link.name, pattern)]
    if not chosen:
        return f"error: no link matches {pattern}"
    if mode == "status":
        return " ".join(f"{link.name}={link.mode}" for link in chosen)
    if mode not in ("ok", "delay", "blackhole", "blackhole-in", "blackhole-out", "reset", "refuse"):
        return f"error: unknown mode {mode}"
    for link in chosen:
        await link.set(mode, *map(float, arguments))
    return f"ok {len(chosen)}"


async def main(control_port, specs):
    links = [Link(*spec.split("=")) for spec in specs]
    for link in links:
        await link.open()

    async def control(reader, writer):
        try:
            answer = await command(links, (await reader.readline()).decode())
        except (ValueError, OSError) as problem:
            answer = f"error: {problem}"
        writer.write(answer.encode() + b"\n")
        await writer.drain()
        writer.close()

    await (await asyncio.start_server(control, "127.0.0.1", control_port)).serve_forever()


def tell(control_port, line):
    """Send one command; returns the answer. For other programs, too."""
    with socket.create_connection(("127.0.0.1", int(control_port)), timeout=5) as s:
        s.sendall(line.encode() + b"\n")
        answer = s.makefile().readline().strip()
    if answer.startswith("error"):
        raise ValueError(answer)
    return answer


if __name__ == "__main__":
    if sys.argv[1:2] == ["--tell"]:
        print(tell(sys.argv[2], sys.argv[3]))
    else:
        asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
