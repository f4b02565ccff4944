#!/usr/bin/env python3
"""A stand-in for the application behind api.omnimesh.com in one region.

usage: app_service.py --region R --address IP --http PORT --https PORT --certificate FILE --key FILE [--database DSN]

GET  /live                 200 while the process runs
GET  /health               200 "ok", or 503 when the region's database (if given) does not answer
POST /lab/health           from now on /health answers 200 with this JSON instead
GET  /metrics              Prometheus text with response_time_seconds and error_rate
POST /v1/agents/register   201 with an id
POST /v1/ai/tasks          202 with an id
Every answer carries X-Region, so that a client sees who served it.
"""
import argparse, itertools, json, ssl, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

arguments = argparse.ArgumentParser()
for name in ("region", "address", "http", "https", "certificate", "key"):
    arguments.add_argument(f"--{name}", required=True)
arguments.add_argument("--database")
options = arguments.parse_args()
numbers = itertools.count(1)
told = {}                                              # what /health was told to answer



def database_problem():
    if not options.database:
        return None
    try:
        import psycopg
        with psycopg.connect(options.database, connect_timeout=2) as connection:
            connection.execute("SELECT 1 FROM compute_nodes LIMIT 1")
        return None
    except Exception as error:
        return str(error).splitlines()[0]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/live":
            self.answer(200, {"status": "ok"})
        elif self.path == "/health" and told:
            self.answer(200, told)
        elif self.path == "/health":
            problem = database_problem()
            self.answer(503 if problem else 200, {"status": "failing", "database": problem} if problem else {"status": "ok"})
        elif self.path == "/metrics":
            self.answer(200, f'response_time_seconds{{region="{options.region}"}} 0.012\nerror_rate{{region="{options.region}"}} 0\n')
        else:
            self.answer(404, {"error": "no such path"})

    def do_POST(self):
        length = min(int(self.headers.get("Content-Length") or 0), 1_000_000)
        try:
            body = json.loads(self.rfile.read(length) or b"{}")
        except ValueError:
            return self.answer(400, {"error": "not JSON"})
        if self.path == "/v1/agents/register":
            self.answer(201, {"agent_id": f"agent-{next(numbers)}", "agent_type": body.get("agent_type"), "region": options.region})
        elif self.path == "/lab/health":
            told.clear()
            told.update(body)
            self.answer(204, "")
        elif self.path == "/v1/ai/tasks":
            self.answer(202, {"task_id": f"task-{next(numbers)}", "region": options.region})
        else:
            self.answer(404, {"error": "no such path"})

    def answer(self, status, content):
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Region", options.region)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    context = None

    def finish_request(self, request, address):       # the handshake in the connection's own thread: a silent client holds up nobody
        if self.context:
            request.settimeout(10)
            request = self.context.wrap_socket(request, server_side=True)
        super().finish_request(request, address)

    def handle_error(self, request, address):
        pass


plain = Server((options.address, int(options.http)), Handler)
secure = Server((options.address, int(options.https)), Handler)
secure.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
secure.context.load_cert_chain(options.certificate, options.key)
threading.Thread(target=secure.serve_forever, daemon=True).start()
plain.serve_forever()
