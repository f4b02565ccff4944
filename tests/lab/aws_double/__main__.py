"""Start the double.   usage: python -m aws_double SETTINGS.json      (see settings.py for what it may hold)"""
import os, sys

from . import settings

settings.load(sys.argv[1])
os.environ.update(MOTO_PORT=str(settings.get("port")), MOTO_EC2_LOAD_DEFAULT_AMIS="false", MOTO_ACCOUNT_ID="123456789012")
os.environ.setdefault("AWS_ACCESS_KEY_ID", "labkey")
os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "labsecret")

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple
from components import constants as c
from . import dns_server, elasticache, faults, rds, route53


def seed():
    """What can be made without a request; the rest is asked for over HTTP once the server runs (components/aws.py)."""
    record = lambda region, weight: {"Name": c.API_NAME, "Type": "A", "TTL": c.TTL, "SetIdentifier": c.SET_IDENTIFIER[region], "Weight": weight,
                                     "ResourceRecords": [{"Value": settings.get("addresses").get(region, c.PLAN_ADDRESS[region])}]}
    route53.seed(c.ZONE_ID, c.ZONE_NAME, [record(c.PRIMARY, 100), record(c.SECONDARY, 0)])
    layout = settings.get("cache_layout")
    east = elasticache.Group(c.PRIMARY, c.CACHE_GROUP[c.PRIMARY], shards=3 if layout == "cluster" else 1, replicas=2, automatic_failover=True)
    west = elasticache.Group(c.SECONDARY, c.CACHE_GROUP[c.SECONDARY], replicas=1)
    elasticache.seed([east, west], global_id=c.GLOBAL_CACHE_GROUP if layout == "pair" else None)


class QuietHandler(MotoRequestHandler):
    def log_request(self, *_):
        pass


for module in (rds, route53, elasticache):
    module.install()
seed()
dns_server.serve(settings.get("dns_port"), settings.get("host"))
run_simple(settings.get("host"), settings.get("port"), faults.FaultLayer(DomainDispatcherApplication(create_backend_app)), threaded=True,
           request_handler=QuietHandler)
